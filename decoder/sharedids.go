package decoder

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/millrace/millrace"
)

// SharedIDs is the part of the sidecar that counts the ids which rows of several
// sources have in one bucket, so that they replace each other on clients. A sidecar need not
// have it.
type SharedIDs interface {
	// CountSharedIDs counts in those of the given definitions that are in force or
	// being built, for people to see, in place of what was counted before. It may
	// take long and runs beside everything else.
	CountSharedIDs(ctx context.Context, definitions []millrace.DefinitionID) error
}

const (
	firstCount = 10 * time.Second // soon after new rules, which people are looking at then
	countEvery = 10 * time.Minute
)

// sharedDefinitions are the bucket definitions that read several sources.
func sharedDefinitions(f *feed, sources []*source) (list []millrace.DefinitionID) {
	for _, set := range f.sets {
		readers := map[int]int{}
		for _, s := range sources {
			for _, i := range set.rules.Reads(s.origin.tags) {
				readers[i]++
			}
		}
		for i, d := range set.rules.Definitions() {
			if id := set.ids[i]; readers[i] > 1 && d.Kind == millrace.BucketDefinition && !slices.Contains(list, id) {
				list = append(list, id)
			}
		}
	}
	return list
}

// countSharedIDs counts now and then until ctx ends; once if there are no
// definitions to count in, so that nothing is left of earlier ones. That it cannot
// is no reason to stop.
func countSharedIDs(ctx context.Context, s SharedIDs, definitions []millrace.DefinitionID, log *slog.Logger) error {
	timer := time.NewTimer(firstCount)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := s.CountSharedIDs(ctx, definitions); err != nil && ctx.Err() == nil {
			log.Warn("ids that several sources have are not counted", "error", err)
		}
		if len(definitions) == 0 {
			return nil
		}
		timer.Reset(countEvery)
	}
}
