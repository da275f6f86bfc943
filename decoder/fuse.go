package decoder

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/millrace/millrace/decoder/catalog"
)

// Fuse drops the slots of sources that hold back more WAL than a limit, to save
// the sources' disks. It is no part of a term: it also works while the sidecar
// is away, and in decoders that stand by. A slot that was dropped is a lost
// history, which is built anew once the decoder can.
type Fuse struct {
	Sources []SourceConfig
	// MaxLag is how many bytes of WAL a slot may hold back.
	MaxLag int64
	Logger *slog.Logger

	every time.Duration // between looks; 10 s
}

// Run looks after the slots until ctx ends.
func (f *Fuse) Run(ctx context.Context) error {
	setDefault(&f.every, 10*time.Second)
	g, ctx := errgroup.WithContext(ctx)
	for i := range f.Sources {
		g.Go(func() error { return f.watch(ctx, &f.Sources[i]) })
	}
	return g.Wait()
}

func (f *Fuse) watch(ctx context.Context, config *SourceConfig) error {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	said := ""
	for {
		// One connection for each look: an idle one would be cut, or count.
		err := f.look(ctx, config)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			f.Logger.Warn("cannot look after a slot", "source", config.Name, "slot", config.Slot, "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// look drops the slot if it holds back too much.
func (f *Fuse) look(ctx context.Context, config *SourceConfig) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	server, err := catalog.Connect(ctx, catalog.Config{URI: config.URI, Slot: config.Slot, MaxConnections: 1})
	if err != nil {
		return err
	}
	defer server.Close()
	slot, err := server.InspectSlot(ctx, config.Slot)
	if err != nil || slot == nil || slot.Lost || slot.Retained <= f.MaxLag {
		return err
	}
	if err := server.TakeSlot(ctx, config.Slot); err != nil {
		return err
	}
	if err := server.DropSlot(ctx, config.Slot); err != nil {
		return err
	}
	f.Logger.Error("slot dropped, because it held back more WAL than decoder.slot_max_lag allows; tables are copied again once the decoder can",
		"source", config.Name, "slot", config.Slot, "held_back", slot.Retained, "limit", f.MaxLag)
	return nil
}
