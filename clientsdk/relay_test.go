package clientsdk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/relay/relaytest"
)

// relayApp is a connector for a real relay whose backend writes into the
// sidecar directly. The relay may be replaced.
type relayApp struct {
	user string
	side *relaytest.Sidecar
	mu   sync.Mutex
	url  string
	ttl  time.Duration
}

func (a *relayApp) FetchCredentials(context.Context) (Credentials, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.url == "" {
		return Credentials{}, errOffline
	}
	return Credentials{Endpoint: a.url, Token: relaytest.Token(a.user, a.ttl)}, nil
}

func (a *relayApp) UploadData(ctx context.Context, db *DB) error {
	for {
		tx, err := db.NextTransaction(ctx)
		if err != nil || tx == nil {
			return err
		}
		a.side.Commit(func(s *relaytest.Tx) {
			for _, op := range tx.Ops {
				if op.Kind == UploadDelete {
					s.Remove("mine", a.user, op.Type, op.ID)
					continue
				}
				s.Put("mine", a.user, op.Type, op.ID, string(op.Data))
			}
		})
		if err := tx.Complete(ctx); err != nil {
			return err
		}
	}
}

// rowsOf folds the buckets a user has, as the oracle.
func rowsOf(t *testing.T, side *relaytest.Sidecar, user string, lists []string) map[rowName]string {
	out, newest := map[rowName]string{}, map[rowName]int64{}
	buckets := [][2]string{{"global", ""}, {"urgent", ""}, {"mine", user}}
	for _, l := range lists {
		buckets = append(buckets, [2]string{"list", l})
	}
	for _, b := range buckets {
		for id, op := range side.Bucket(b[0], b[1]).Rows {
			n := rowName{id.Type, id.RowID}
			if int64(op.ID) > newest[n] {
				newest[n], out[n] = int64(op.ID), canonical(t, op.Data)
			}
		}
	}
	return out
}

func (db *DB) shown(t *testing.T) map[rowName]string {
	rows, err := db.Query(context.Background(), `SELECT type, id, data FROM mr_rows WHERE shown = 1`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[rowName]string{}
	for rows.Next() {
		var n rowName
		var data string
		if err := rows.Scan(&n.typ, &n.id, &data); err != nil {
			t.Fatal(err)
		}
		out[n] = canonical(t, data)
	}
	return out
}

// TestRelay runs clients against a real relay that is replaced now and then,
// while the sidecar changes, is compacted, and grants come and go.
func TestRelay(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		ctx := context.Background()
		rnd := rand.New(rand.NewPCG(7, uint64(o.Transport)))
		quiet := relaytest.Options{Log: slog.New(slog.DiscardHandler)}
		side := relaytest.NewSidecar()
		srv := relaytest.Serve(t, side, quiet)
		users := []string{"alice", "bob", "carol"}
		apps, dbs, lists := map[string]*relayApp{}, map[string]*DB{}, map[string]map[string]bool{}
		for _, u := range users {
			apps[u] = &relayApp{user: u, side: side, url: srv.URL, ttl: time.Hour}
			dbs[u], lists[u] = testDB(t, tempFile(t)), map[string]bool{}
			if err := dbs[u].Connect(apps[u], o); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 150 {
			side.Commit(func(tx *relaytest.Tx) { changeSidecar(rnd, tx, users, lists, i) })
			switch rnd.IntN(12) {
			case 0:
				side.Compact([]string{"global", "urgent"}[rnd.IntN(2)], "")
			case 1:
				if i%3 == 0 {
					srv.Stop()
					srv = relaytest.Serve(t, side, quiet)
					for _, a := range apps {
						a.mu.Lock()
						a.url = srv.URL
						a.mu.Unlock()
					}
				}
			case 2, 3, 4:
				localWrites(t, ctx, rnd, dbs[users[rnd.IntN(3)]], i)
			case 5:
				u := users[rnd.IntN(3)]
				waitFor(t, dbs[u], "first sync", func(s Status) bool { return s.HasSynced })
			}
		}
		for _, u := range users {
			var mine []string
			for l := range lists[u] {
				mine = append(mine, l)
			}
			db := dbs[u]
			deadline := time.Now().Add(20 * time.Second)
			for {
				q, _ := db.UploadQueue(ctx, 1)
				diff := cmp.Diff(rowsOf(t, side, u, mine), db.shown(t), cmp.AllowUnexported(rowName{}))
				if diff == "" && len(q) == 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s differs from the sidecar (-sidecar +client):\n%s\n%+v", u, diff, db.Status())
				}
				<-time.NewTimer(5 * time.Millisecond).C
			}
		}
	})
}

func changeSidecar(rnd *rand.Rand, tx *relaytest.Tx, users []string, lists map[string]map[string]bool, i int) {
	for range 1 + rnd.IntN(20) {
		id := fmt.Sprint("r", rnd.IntN(12))
		data := fmt.Sprintf(`{"v":%d}`, i)
		switch rnd.IntN(8) {
		case 0:
			tx.Remove("global", "", "a", id)
		case 1:
			tx.Put("urgent", "", "a", id, data)
		case 2:
			tx.Put("list", users[rnd.IntN(3)]+"'s", "b", id, data)
		case 3:
			u := users[rnd.IntN(3)]
			l := users[rnd.IntN(3)] + "'s"
			if lists[u][l] {
				tx.Revoke(u, l)
				delete(lists[u], l)
			} else {
				tx.Grant(u, l)
				lists[u][l] = true
			}
		default:
			tx.Put("global", "", "a", id, data)
		}
	}
}

func localWrites(t *testing.T, ctx context.Context, rnd *rand.Rand, db *DB, i int) {
	err := db.Transaction(ctx, func(tx *Tx) error {
		for k := range 1 + rnd.IntN(3) {
			if _, err := tx.Execute(ctx, `INSERT INTO b (id, v) VALUES (?, ?)`, fmt.Sprintf("n%d.%d", i, k), i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRelayHoldsOwnWrites: with a real relay, own writes stay in sight until
// their write checkpoint comes, over both ways of asking for it.
func TestRelayHoldsOwnWrites(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		ctx := context.Background()
		side := relaytest.NewSidecar()
		srv := relaytest.Serve(t, side)
		side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "a", "r1", `{"v":1}`) })
		db := testDB(t, tempFile(t))
		if err := db.Connect(&relayApp{user: "alice", side: side, url: srv.URL, ttl: time.Hour}, o); err != nil {
			t.Fatal(err)
		}
		if err := db.WaitForFirstSync(ctx); err != nil {
			t.Fatal(err)
		}
		side.Hold()
		if _, err := db.Execute(ctx, `UPDATE a SET v = 2 WHERE id = 'r1'`); err != nil {
			t.Fatal(err)
		}
		side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "b", "x", `{"v":3}`) })
		waitFor(t, db, "held", func(s Status) bool { return s.Held && !s.Uploading })
		if db.value(t, "a", "r1") != 2 || db.value(t, "b", "x") != -1 {
			t.Fatal("the gate leaks")
		}
		side.Release()
		eventually(t, "the release", func() bool { return db.value(t, "b", "x") == 3 && db.value(t, "a", "r1") == 2 })
	})
}

// TestRelayWithoutSidecar: a server that cannot give a write checkpoint now says
// so, and is asked again soon after, not when the wait for an answer ends.
func TestRelayWithoutSidecar(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		ctx := context.Background()
		side := relaytest.NewSidecar()
		srv := relaytest.Serve(t, side, relaytest.Options{Log: slog.New(slog.DiscardHandler)})
		db := testDB(t, tempFile(t))
		if err := db.Connect(&relayApp{user: "alice", side: side, url: srv.URL, ttl: time.Hour}, o); err != nil {
			t.Fatal(err)
		}
		if err := db.WaitForFirstSync(ctx); err != nil {
			t.Fatal(err)
		}
		side.Break(errors.New("connection refused"))
		if _, err := db.Execute(ctx, `INSERT INTO a (id, v) VALUES ('r1', 1)`); err != nil {
			t.Fatal(err)
		}
		waitFor(t, db, "the complaint", func(s Status) bool {
			return s.UploadError != nil && strings.Contains(s.UploadError.Error(), "PSYNC_S2003")
		})
		side.Break(nil)
		began := time.Now()
		waitFor(t, db, "the upload's end", func(s Status) bool { return s.UploadError == nil && !s.Uploading && !s.Held })
		if took := time.Since(began); took > checkpointTimeout/2 {
			t.Errorf("it took %v", took)
		}
		side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "b", "x", `{"v":3}`) })
		eventually(t, "the gate to open", func() bool { return db.value(t, "b", "x") == 3 && db.value(t, "a", "r1") == 1 })
	})
}

// TestRelayRefusesTokens: a foreign token shows the server's own words, and the
// local database works on.
func TestRelayRefusesTokens(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		srv := relaytest.Serve(t, relaytest.NewSidecar())
		db := testDB(t, tempFile(t))
		err := db.Connect(connectorFunc(func() Credentials {
			return Credentials{Endpoint: srv.URL, Token: relaytest.Sign(map[string]any{"sub": "alice", "aud": "other", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})}
		}), o)
		if err != nil {
			t.Fatal(err)
		}
		waitFor(t, db, "the refusal", func(s Status) bool {
			return s.DownloadError != nil && strings.Contains(s.DownloadError.Error(), "PSYNC_S2105")
		})
		if _, err := db.Execute(context.Background(), `INSERT INTO a (id) VALUES ('x')`); err != nil {
			t.Fatal(err)
		}
	})
}

type connectorFunc func() Credentials

func (f connectorFunc) FetchCredentials(context.Context) (Credentials, error) { return f(), nil }
func (f connectorFunc) UploadData(context.Context, *DB) error                 { return errors.New("no backend") }
