package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/faultnet"
	"github.com/millrace/millrace/internal/pgtest"
)

// dump gives the contents of every table of the schema, but for the heartbeat.
func dump(tb rapid.TB, conn *pgx.Conn) map[string]string {
	tb.Helper()
	ctx := context.Background()
	rows, err := conn.Query(ctx, `
		SELECT relname FROM pg_class WHERE relnamespace = 'millrace'::regnamespace AND relkind = 'r' AND relname NOT IN ('leader', 'source_reports')`)
	if err != nil {
		tb.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	for _, table := range tables {
		var text string
		sql := fmt.Sprintf(`SELECT coalesce(string_agg(t::text, E'\n' ORDER BY t::text COLLATE "C"), '') FROM millrace.%s t`, pgx.Identifier{table}.Sanitize())
		if err := conn.QueryRow(ctx, sql).Scan(&text); err != nil {
			tb.Fatal(err)
		}
		all[table] = text
	}
	return all
}

// failCommits makes every COMMIT of a flush fail with a code, until the
// returned function is called.
func failCommits(tb testing.TB, x *world, code string) (stop func()) {
	tb.Helper()
	conn := connect(tb, x.uri)
	exec(tb, conn, fmt.Sprintf(`
		CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN RAISE EXCEPTION 'no commit today' USING ERRCODE = '%s'; END $$;
		CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON millrace.checkpoint_log DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION public.fail()`, code))
	return func() { exec(tb, conn, `DROP TRIGGER fail ON millrace.checkpoint_log`) }
}

func TestSA33_FailedCommitLeavesNoTrace(t *testing.T) {
	for _, opts := range []Options{{}, {PieceBytes: 200, CacheBytes: 1500}} {
		t.Run(fmt.Sprintf("piece=%d", opts.PieceBytes), func(t *testing.T) {
			x := newWorld(t, opts)
			x.castShadows(t)
			m := model{}
			rapid.Check(t, func(rt *rapid.T) {
				open := m.clone()
				var changes []millrace.Change
				for range rapid.IntRange(1, 10).Draw(rt, "changes") {
					table, c := x.draw(rt)
					open.apply(x, table, c)
					changes = append(changes, c)
				}
				before := dump(rt, x.conn)
				stop := failCommits(t, x, "P0001")
				flush := &millrace.Flush{
					Positions: []millrace.SourcePosition{{Source: x.source.ID, LSN: x.lsn + 8}},
					Copies:    []*millrace.Copy{{RuleSet: x.set.ID, Table: x.tables[0].ID, State: millrace.CopyDone}},
				}
				must(t, x.w.Apply(t.Context(), changes))
				_, err := x.w.Commit(t.Context(), flush)
				stop()
				if err == nil || !strings.Contains(err.Error(), "no commit today") || errors.Is(err, ErrLeadershipLost) {
					rt.Fatalf("Commit: %v", err)
				}
				same(rt, "tables after a failed commit", before, dump(rt, x.conn))
				if flush.Copies[0].ID != 0 {
					rt.Fatalf("the copy was numbered %d", flush.Copies[0].ID)
				}
				// The term goes on: the same flush again, now with success.
				must(t, x.w.Apply(t.Context(), changes))
				x.lsn += 8
				c, err := x.w.Commit(t.Context(), flush)
				must(t, err)
				if flush.Copies[0].ID == 0 {
					rt.Fatal("the copy was not numbered")
				}
				m = open
				m.check(rt, x, c.OpID)
			})
		})
	}
}

// TestSA33_CutConnection cuts the writing session at random messages. What was
// committed is what a new term finds, and nothing else.
func TestSA33_CutConnection(t *testing.T) {
	x := newWorld(t, Options{})
	must(t, x.w.Close(t.Context()))
	u, err := url.Parse(x.uri)
	must(t, err)
	proxy, err := faultnet.Listen(u.Host)
	must(t, err)
	defer func() { must(t, proxy.Close()) }()
	u.Host = proxy.Addr()
	x.store = openStore(t, u.String(), Options{PieceBytes: 4000})
	m := model{}
	seq := value[int64](t, x.conn, `SELECT seq FROM millrace.head`)
	unknown, lost := 0, 0
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		x.w = lead(t, x.store)
		var chunks atomic.Int64
		stop := random.Int64N(40)
		verdict := []faultnet.Verdict{faultnet.Cut, faultnet.CutAfter}[random.IntN(2)]
		proxy.SetHook(func(_ int, dir faultnet.Direction, chunk []byte) faultnet.Verdict {
			if chunks.Add(1) > stop {
				return verdict
			}
			return faultnet.Pass
		})
		var err error
		for err == nil {
			open := m.clone()
			var changes []millrace.Change
			for i := range 20 {
				c := x.upsert(0, fmt.Sprint("k", random.IntN(8)), x.out(0, fmt.Sprintf(`b["%d"]`, random.IntN(3)), "lists", "r", fmt.Sprintf(`{"v":%d}`, i)))
				c.Outputs[0].Subkey = string(millrace.AppendSubkey(nil, 1, c.Key))
				if random.IntN(3) == 0 {
					c = x.delete(0, c.Key)
				}
				open.apply(x, 0, c)
				changes = append(changes, c)
			}
			if err = x.w.Apply(t.Context(), changes); err != nil {
				break
			}
			_, err = x.w.Commit(t.Context(), &millrace.Flush{})
			if errors.Is(err, ErrOutcomeUnknown) {
				// The server may still be at work on what it was sent.
				x.waitSessionGone(t)
			}
			if err == nil || errors.Is(err, ErrOutcomeUnknown) && value[int64](t, x.conn, `SELECT seq FROM millrace.head`) > seq {
				m = open
				seq++
			}
		}
		if !errors.Is(err, ErrLeadershipLost) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		lost++
		if errors.Is(err, ErrOutcomeUnknown) {
			unknown++
		}
		proxy.SetHook(nil)
		_ = x.w.Close(t.Context())
		x.waitSessionGone(t)
		if now := value[int64](t, x.conn, `SELECT seq FROM millrace.head`); now != seq {
			t.Fatalf("seed %d: seq %d, want %d (%v)", seed, now, seq, err)
		}
		m.check(t, x, millrace.OpID(value[int64](t, x.conn, `SELECT op_id FROM millrace.head`)))
	}
	if unknown == 0 || unknown == lost {
		t.Errorf("%d of %d cuts came during COMMIT: the test does not try both", unknown, lost)
	}
}

// waitSessionGone waits until the server has ended the writing session.
func (x *world) waitSessionGone(tb testing.TB) {
	pgtest.Eventually(tb, 10*time.Second, func() error {
		if n := value[int](tb, x.conn, `SELECT count(*) FROM pg_stat_activity a, millrace.head h WHERE a.pid = h.writer_pid AND a.backend_start = h.writer_start`); n > 0 {
			return fmt.Errorf("the session is still there")
		}
		return nil
	})
}

func TestNotify(t *testing.T) {
	x := newWorld(t, Options{})
	listener := connect(t, x.uri)
	exec(t, listener, `LISTEN millrace`)
	next := func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n, err := listener.WaitForNotification(ctx)
		must(t, err)
		return n.Payload
	}
	c := x.commit(t, nil)
	equal(t, fmt.Sprintf(`{"seq":%d,"op_id":"%d"}`, c.Seq, c.OpID), next())

	// A full queue fails COMMIT. The flush that comes again leaves NOTIFY out.
	stop := failCommits(t, x, "54000")
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	if _, err := x.w.Commit(t.Context(), &millrace.Flush{}); err == nil || errors.Is(err, ErrLeadershipLost) {
		t.Fatalf("Commit: %v", err)
	}
	stop()
	x.apply(t, x.upsert(0, "k", x.out(0, "b", "lists", "k", "{}")))
	silent := x.commit(t, nil)
	x.store.notify.until.Store(0)
	c = x.commit(t, nil)
	if c.Seq != silent.Seq+1 {
		t.Errorf("checkpoints %d, %d", silent.Seq, c.Seq)
	}
	equal(t, fmt.Sprintf(`{"seq":%d,"op_id":"%d"}`, c.Seq, c.OpID), next())
}
