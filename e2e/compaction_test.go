package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/auth"
	"github.com/millrace/millrace/relay/relaytest"
	"github.com/millrace/millrace/store"
)

// These tests put a real sidecar, with its writer and its compaction, behind a
// relay, and stop the relay between any two pages of a download: what happens to
// the bucket meanwhile is up to the test.

// served is a sidecar with the fixed rules of relaytest, and a relay on it.
type served struct {
	store *store.Store
	w     *store.Writer
	conn  *pgx.Conn
	url   string
	lsn   millrace.LSN
	src   millrace.SourceID
	scope *millrace.Scope
	defs  []millrace.Definition

	pages atomic.Int64
	onOps atomic.Pointer[func(page int64)] // called in the relay before it reads a page
}

func serveSidecar(t *testing.T) *served {
	t.Helper()
	ctx := t.Context()
	uri := pgtest.Shared(t).Database(t)
	if err := migrations.Up(ctx, uri); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	st, err := store.Open(ctx, uri, store.Options{Logger: log})
	fatal(t, err)
	w, err := st.Lead(ctx, "e2e")
	fatal(t, err)
	t.Cleanup(func() { _ = w.Close(context.Background()) })
	conn, err := pgx.Connect(ctx, uri)
	fatal(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	x := &served{store: st, w: w, conn: conn}
	source := millrace.Source{Name: "main", SystemID: "1", Timeline: 1, Database: "app", Slot: "s", Publication: "p"}
	fatal(t, w.SaveSource(ctx, &source))
	x.src = source.ID
	table := millrace.SourceTable{Source: source.ID, OID: 100, Schema: "public", Name: "rows", Identity: millrace.IdentityDefault, KeyColumns: []string{"id"}}
	fatal(t, w.SaveTable(ctx, &table))
	for _, key := range []string{"global", "urgent", "mine", "list", "project"} {
		x.defs = append(x.defs, millrace.Definition{Kind: millrace.BucketDefinition, Key: key, Name: key, Hash: key})
	}
	x.defs = append(x.defs, millrace.Definition{Kind: millrace.LookupDefinition, Key: "grants", Name: "grants", Hash: "grants"})
	set, err := w.Deploy(ctx, "rules", x.defs)
	fatal(t, err)
	x.defs = set.Definitions
	x.scope = &millrace.Scope{Table: table.ID, Lookups: []millrace.DefinitionID{x.defs[5].ID}}
	for _, d := range x.defs[:5] {
		x.scope.Buckets = append(x.scope.Buckets, d.ID)
	}
	_, err = w.Commit(ctx, &millrace.Flush{Activate: set.ID})
	fatal(t, err)
	x.relay(t, uri, log)
	return x
}

func (x *served) relay(t *testing.T, uri string, log *slog.Logger) {
	t.Helper()
	reader, err := store.OpenReader(t.Context(), uri, store.ReaderOptions{Logger: log})
	fatal(t, err)
	t.Cleanup(reader.Close)
	verifier, err := auth.New(auth.Config{Keys: []json.RawMessage{relaytest.Key()}, Audience: []string{relaytest.Audience}})
	fatal(t, err)
	t.Cleanup(verifier.Close)
	r, err := relay.New(relay.Config{Name: t.Name(), Verifier: verifier, Compile: relaytest.Compile, Log: log}, pausedSource{reader, x})
	fatal(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	h := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		cancel()
		fatal(t, <-done)
		h.CloseClientConnections()
		h.Close()
	})
	x.url = h.URL
}

// pausedSource lets the test act before a page is read.
type pausedSource struct {
	*store.Reader
	x *served
}

func (s pausedSource) Snapshot(ctx context.Context) (relay.Snapshot, error) {
	snap, err := s.Reader.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return &pausedSnapshot{snap, s, ctx}, nil
}

type pausedSnapshot struct {
	*store.ReadSnapshot
	source pausedSource
	ctx    context.Context
}

// Totals is the first thing a page reads. The snapshot is then exchanged, so
// that the page sees what the test did.
func (s *pausedSnapshot) Totals(ctx context.Context, ids []millrace.BucketID) ([]millrace.BucketTotals, error) {
	if f := s.source.x.onOps.Load(); f != nil {
		page := s.source.x.pages.Add(1)
		(*f)(page)
		fresh, err := s.source.Reader.Snapshot(ctx)
		if err != nil {
			return nil, err
		}
		s.ReadSnapshot.Close()
		s.ReadSnapshot = fresh
	}
	return s.ReadSnapshot.Totals(ctx, ids)
}

func fatal(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (x *served) put(id string, n int) millrace.Change {
	return millrace.Change{Scope: x.scope, Kind: millrace.ChangeUpsert, Key: id, Outputs: []millrace.Output{
		{Definition: x.defs[0].ID, Bucket: "global[]", Type: "rows", RowID: id, Data: fmt.Sprintf(`{"id":%q,"n":%d}`, id, n)}}}
}

// commit may be called by the relay's goroutine, so it only notes errors.
func (x *served) commit(t testing.TB, changes ...millrace.Change) millrace.OpID {
	if err := x.w.Apply(context.Background(), changes); err != nil {
		t.Error(err)
	}
	x.lsn += 100
	c, err := x.w.Commit(context.Background(), &millrace.Flush{Positions: []millrace.SourcePosition{{Source: x.src, LSN: x.lsn}}})
	if err != nil {
		t.Error(err)
	}
	return c.OpID
}

// updates changes rows in turn, count times.
func (x *served) updates(t testing.TB, rows, count int) (last millrace.OpID) {
	var batch []millrace.Change
	for n := range count {
		batch = append(batch, x.put(fmt.Sprintf("r%04d", n%rows), n))
		if len(batch) == 10_000 || n == count-1 {
			last = x.commit(t, batch...)
			batch = batch[:0]
		}
	}
	return last
}

func (x *served) compact(t testing.TB) {
	if _, err := x.store.CompactNow(context.Background(), store.CompactionOptions{}); err != nil {
		t.Error(err)
	}
}

// rows is what the bucket holds, by the sidecar's own account.
func (x *served) rows(t testing.TB) map[string]string {
	t.Helper()
	rows, err := x.conn.Query(t.Context(), `SELECT row_id, data FROM millrace.bucket_rows('global[]')`)
	fatal(t, err)
	m := map[string]string{}
	var id, data string
	_, err = pgx.ForEachRow(rows, []any{&id, &data}, func() error { m[id] = data; return nil })
	fatal(t, err)
	return m
}

func (x *served) ops(t testing.TB) (n int) {
	t.Helper()
	fatal(t, x.conn.QueryRow(t.Context(), `SELECT ops FROM millrace.buckets WHERE name = 'global[]'`).Scan(&n))
	return n
}

func (x *served) equal(t testing.TB, c *relaytest.Client) {
	t.Helper()
	want, got := x.rows(t), c.Table("rows")
	if len(got) != len(want) {
		t.Errorf("the client has %d rows, want %d", len(got), len(want))
	}
	for id, data := range want {
		if got[id] != data {
			t.Fatalf("row %s at the client: %s, want %s", id, got[id], data)
		}
	}
	var ok bool
	fatal(t, x.conn.QueryRow(t.Context(), `SELECT ok FROM millrace.verify_bucket('global[]')`).Scan(&ok))
	if !ok {
		t.Error("the bucket does not add up")
	}
}

// TestSA21_CompactionDuringDownload (SA-16, SA-18, SA-21 and I5): a client that is
// downloading a bucket while it is changed and compacted, between any two pages,
// is never told it is complete with anything missing, has right checksums at
// every completion, and ends right. So do one that was up to date and one that
// comes back later.
func TestSA21_CompactionDuringDownload(t *testing.T) {
	for name, meanwhile := range map[string]func(t testing.TB, x *served){
		// The floor stays at or below the client's checkpoint.
		"compacted": func(t testing.TB, x *served) { x.compact(t) },
		// The floor goes beyond it: there is no completion for that checkpoint.
		"changed and compacted": func(t testing.TB, x *served) { x.updates(t, 70, 300); x.compact(t) },
		// Nothing is left but a CLEAR and what is above.
		"emptied and compacted": func(t testing.TB, x *served) {
			var gone []millrace.Change
			for i := range 70 {
				gone = append(gone, millrace.Change{Scope: x.scope, Kind: millrace.ChangeDelete, Key: fmt.Sprintf("r%04d", i)})
			}
			x.commit(t, gone...)
			x.compact(t)
		},
		"compacted twice": func(t testing.TB, x *served) { x.compact(t); x.updates(t, 30, 100); x.compact(t) },
	} {
		for _, at := range []int64{1, 2, 4} {
			t.Run(fmt.Sprintf("%s before page %d", name, at), func(t *testing.T) {
				x := serveSidecar(t)
				x.updates(t, 70, 3500)
				old := relaytest.Dial(t, x.url, relaytest.Token("old", time.Hour), relaytest.Request("old"), nil)
				old.Until(1)
				away := relaytest.Dial(t, x.url, relaytest.Token("away", time.Hour), relaytest.Request("away"), nil)
				away.Until(1)
				away.Close()

				did := make(chan struct{})
				f := func(page int64) {
					if page == at {
						x.onOps.Store(nil)
						meanwhile(t, x)
						close(did)
					}
				}
				x.onOps.Store(&f)
				c := relaytest.Dial(t, x.url, relaytest.Token("new", time.Hour), relaytest.Request("new"), nil)
				select {
				case <-did:
				case <-time.After(time.Minute):
					t.Fatal("the page was never read")
				}
				last := x.commit(t, x.put("last", 1))
				for _, client := range []*relaytest.Client{c, old, relaytest.Dial(t, x.url, relaytest.Token("away", time.Hour), relaytest.Request("away"), away)} {
					client.Until(last)
					x.equal(t, client)
				}
			})
		}
	}
}

// TestCompactOfAHundredThousandUpdates: a bucket whose 1,000 rows were updated
// 100,000 times gets down to 1,100 ops within one interval while a client is in
// the middle of downloading it.
func TestCompactOfAHundredThousandUpdates(t *testing.T) {
	x := serveSidecar(t)
	last := x.updates(t, 1000, 100_000)
	if n := x.ops(t); n != 100_000 {
		t.Fatalf("%d ops before", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	f := func(page int64) {
		if page != 20 {
			return
		}
		// One interval of the decoder's own loop; nothing else starts it.
		began := time.Now()
		go func() { ended <- x.w.Compact(ctx, store.CompactionOptions{Interval: time.Second}) }()
		pgtest.Eventually(t, 2*time.Minute, func() error {
			var done bool
			err := x.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM millrace.bucket_bloat WHERE compacted_to = last_op)`).Scan(&done)
			if err == nil && !done {
				err = fmt.Errorf("not compacted yet")
			}
			return err
		})
		t.Logf("compacted in %s while page 20 waits; %d ops are left", time.Since(began).Round(time.Millisecond), x.ops(t))
		x.onOps.Store(nil)
	}
	x.onOps.Store(&f)
	c := relaytest.Dial(t, x.url, relaytest.Token("new", time.Hour), relaytest.Request("new"), nil)
	// The page waits for compaction, longer than a line may take.
	pgtest.Eventually(t, 3*time.Minute, func() error {
		if x.pages.Load() < 20 || x.onOps.Load() != nil {
			return fmt.Errorf("at page %d", x.pages.Load())
		}
		return nil
	})
	c.Until(last)
	cancel()
	<-ended
	if n := x.ops(t); n > 1100 {
		t.Errorf("%d ops after", n)
	}
	x.equal(t, c)
	fresh := relaytest.Dial(t, x.url, relaytest.Token("fresh", time.Hour), relaytest.Request("fresh"), nil)
	fresh.Until(last)
	x.equal(t, fresh)
}
