package decoder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/faultnet"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/store"
)

// soak is one seed's world. The test's own connections are direct, the decoder's
// go through proxies.
type soak struct {
	t    *testing.T
	seed uint64
	workload
	shards  [2]*soakShard
	sidecar soakSidecar
	decoder *soakDecoder
	log     *soakLog

	step      int
	followUps []followUp
	count     map[string]int // of what was done, by name
	variant   int            // of the rules last asked for
	wrong     []wrongRow     // found by the last check
}

// soakShard is one of the sources.
type soakShard struct {
	name   string
	server *pgtest.Server
	uri    string
	net    *faultnet.Proxy
	db     *pgx.Conn
	held   pgx.Tx // on a connection of its own; nil if there is none
	down   bool
	losses int // of its history
}

type soakSidecar struct {
	server *pgtest.Server
	uri    string
	net    *faultnet.Proxy
	store  *store.Store // direct
	down   bool
}

// followUp is the second half of something, some steps later.
type followUp struct {
	step int
	do   func()
}

func newSoak(t *testing.T, servers soakServers, seed uint64) *soak {
	t.Helper()
	s := &soak{t: t, seed: seed, log: newSoakLog(), count: map[string]int{}}
	s.workload.rng = rand.New(rand.NewPCG(seed, 7))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("events of seed %d:\n%s", seed, s.log.text())
		}
	})
	ctx := t.Context()
	config := Config{
		Rules: soakRules(0), RulesFile: "soak.yaml", SpoolDir: t.TempDir(), Logger: s.log.logger(),
		BatchMaxBytes: 64 << 10, look: 200 * time.Millisecond, positions: 20 * time.Millisecond,
		stopped: 300 * time.Millisecond, retry: 30 * time.Millisecond, pages: 4, fixedPages: true,
		recopies: 1000, // tables change all the while
	}
	for i, server := range servers.sources {
		shard := &soakShard{name: fmt.Sprint("s", i), server: server, uri: server.Database(t)}
		s.shards[i] = shard
		shard.net = s.proxy(shard.uri)
		shard.db = connect(t, shard.uri)
		for _, sql := range slices.Concat([]string{"set lock_timeout = '500ms'"}, workloadTables, soakTables) {
			if _, err := shard.db.Exec(ctx, sql); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
		}
		config.Sources = append(config.Sources, SourceConfig{
			Name: shard.name, URI: through(t, shard.net, shard.uri), Tags: []string{defaultTag}, Slot: fmt.Sprintf("soak_%d_%d", seed, i),
		})
	}
	s.sidecar = soakSidecar{server: servers.sidecar, uri: servers.sidecar.Database(t)}
	s.sidecar.net = s.proxy(s.sidecar.uri)
	if err := migrations.Up(ctx, s.sidecar.uri); err != nil {
		t.Fatal(err)
	}
	options := store.Options{
		PieceBytes: 32 << 10, Heartbeat: 500 * time.Millisecond, LeaderSilence: 3 * time.Second, Logger: config.Logger,
		CacheBytes: []int{0, 20_000}[seed%2], SuppressUnchanged: seed%3 == 0,
		RulesKeep: []time.Duration{0, 0, 2 * time.Second}[seed/2%3],
	}
	var err error
	if s.sidecar.store, err = store.Open(ctx, s.sidecar.uri, options); err != nil {
		t.Fatal(err)
	}
	s.decoder = &soakDecoder{
		config: config, options: options, uri: through(t, s.sidecar.net, s.sidecar.uri), log: s.log,
		compaction: store.CompactionOptions{Interval: 300 * time.Millisecond, Horizon: 500 * time.Millisecond, Defragment: seed%4 == 0},
	}
	return s
}

// proxy puts a proxy in front of the server of a URI.
func (s *soak) proxy(uri string) *faultnet.Proxy {
	s.t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := faultnet.Listen(net.JoinHostPort(u.Hostname(), u.Port()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = p.Close() })
	return p
}

// through is the URI by way of a proxy.
func through(t testing.TB, p *faultnet.Proxy, uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.Addr()
	return u.String()
}

// close ends what runs, and leaves the servers up for the next seed.
func (s *soak) close() {
	s.decoder.stop()
	s.runFollowUps(true)
	for _, shard := range s.shards {
		if shard.held != nil {
			_ = shard.held.Conn().Close(context.Background())
		}
		_ = shard.db.Close(context.Background())
	}
}

// summary says in a line what was done.
func (s *soak) summary() string {
	var parts []string
	for name, n := range s.count {
		parts = append(parts, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%d terms; %s", s.decoder.terms.Load(), strings.Join(parts, ", "))
}

// soakDecoder is the decoder as a process manager runs it: it is started again
// whenever it ends.
type soakDecoder struct {
	config     Config
	options    store.Options
	compaction store.CompactionOptions
	uri        string
	log        *soakLog
	terms      atomic.Int64
	calls      atomic.Int64 // of the sidecar until one fails; ≤ 0: none does

	cancel context.CancelFunc // nil while it is stopped
	done   chan struct{}
}

func (d *soakDecoder) start() {
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel, d.done = cancel, make(chan struct{})
	go func() {
		defer close(d.done)
		for ctx.Err() == nil {
			d.terms.Add(1)
			err := d.term(ctx)
			d.log.printf("term %d ended: %v", d.terms.Load(), err)
			wait(ctx, 30*time.Millisecond)
		}
	}()
}

func (d *soakDecoder) running() bool { return d.cancel != nil }

func (d *soakDecoder) stop() {
	if d.cancel != nil {
		d.cancel()
		<-d.done
		d.cancel = nil
	}
}

func (d *soakDecoder) term(ctx context.Context) (err error) {
	st, err := store.Open(ctx, d.uri, d.options)
	if err != nil {
		return err
	}
	w, err := st.Lead(ctx, "soak")
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, w.Close(closing))
	}()
	ended := make(chan error, 2)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { ended <- Run(ctx, d.config, &faultySidecar{w, &d.calls}) }()
	go func() { ended <- w.Compact(ctx, d.compaction) }()
	err = <-ended
	cancel()
	<-ended
	return err
}

// soakLog keeps what happened, in order, with the decoder's own log.
type soakLog struct {
	mu    sync.Mutex
	began time.Time
	lines []string
}

func newSoakLog() *soakLog { return &soakLog{began: time.Now()} }

func (l *soakLog) printf(format string, args ...any) {
	line := fmt.Sprintf("%8.3f ", time.Since(l.began).Seconds()) + fmt.Sprintf(format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
}

// Write takes a line of a logger.
func (l *soakLog) Write(line []byte) (int, error) {
	l.printf("  | %s", strings.TrimSpace(string(line)))
	return len(line), nil
}

func (l *soakLog) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

func (l *soakLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
