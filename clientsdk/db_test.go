package clientsdk

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

var fast = ConnectOptions{RetryMin: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond}

func testDB(tb testing.TB, path string) *DB {
	tb.Helper()
	db, err := Open(context.Background(), Options{Path: path, Schema: modelSchema})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

func (db *DB) value(tb testing.TB, table, id string) int64 {
	tb.Helper()
	v := int64(-1)
	rows, err := db.Query(context.Background(), `SELECT v FROM `+table+` WHERE id = ?`, id)
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&v); err != nil {
			tb.Fatal(err)
		}
	}
	return v
}

func eachTransport(t *testing.T, test func(t *testing.T, o ConnectOptions)) {
	for name, tr := range map[string]Transport{"websocket": WebSocket, "http": HTTP} {
		t.Run(name, func(t *testing.T) {
			o := fast
			o.Transport = tr
			test(t, o)
		})
	}
}

func waitFor(tb testing.TB, db *DB, what string, condition func(Status) bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := db.WaitFor(ctx, condition); err != nil {
		tb.Fatalf("%s: %v (status %+v)", what, err, db.Status())
	}
}

// TestRoundTrip: rows come down, a local write is seen at once, goes up in one
// transaction, and stays until the server's version of it is there (S4, S5, U1).
func TestRoundTrip(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		ctx := context.Background()
		f := newFakeServer(t)
		f.do(func(s *simServer) {
			s.granted["p1"], s.granted["p3a"] = true, true
			s.put("p1", "a", "r1", "", `{"v":1}`)
		})
		app := &testApp{f: f, lag: true}
		db := testDB(t, tempFile(t))
		if err := db.Connect(app, o); err != nil {
			t.Fatal(err)
		}
		if err := db.WaitForFirstSync(ctx); err != nil {
			t.Fatal(err)
		}
		if v := db.value(t, "a", "r1"); v != 1 {
			t.Fatalf("a.r1 is %d", v)
		}
		err := db.Transaction(ctx, func(tx *Tx) error {
			if _, err := tx.Execute(ctx, `INSERT INTO b (id, v) VALUES ('n', 5)`); err != nil {
				return err
			}
			_, err := tx.Execute(ctx, `UPDATE a SET v = 2 WHERE id = 'r1'`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the upload", func() bool { q, _ := db.UploadQueue(ctx, 10); return len(q) == 0 })
		f.do(func(s *simServer) { s.put("p3a", "b", "other", "", `{"v":9}`) })
		waitFor(t, db, "held", func(s Status) bool { return s.Held })
		if a, n, o := db.value(t, "a", "r1"), db.value(t, "b", "n"), db.value(t, "b", "other"); a != 2 || n != 5 || o != -1 {
			t.Fatalf("while the gate is shut: a.r1 %d, b.n %d, b.other %d", a, n, o)
		}
		f.do(func(s *simServer) { s.replicate() })
		waitFor(t, db, "published", func(s Status) bool { return !s.Held && !s.Uploading })
		eventually(t, "the server's state", func() bool { return db.value(t, "b", "other") == 9 })
		if a, n := db.value(t, "a", "r1"), db.value(t, "b", "n"); a != 2 || n != 5 {
			t.Fatalf("at the end: a.r1 %d, b.n %d", a, n)
		}
		if len(app.uploads) != 1 || len(app.uploads[0]) != 2 {
			t.Fatalf("uploads: %+v", app.uploads)
		}
		var local int
		if err := db.QueryRow(ctx, `SELECT count(*) FROM mr_rows WHERE bucket = 0`).Scan(&local); err != nil || local != 0 {
			t.Fatalf("%d local rows left, %v", local, err)
		}
	})
}

// TestWatch: a live query runs again when its table changes, and only then.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	db := testDB(t, tempFile(t))
	if _, err := db.store.conn.ExecContext(ctx, `CREATE VIEW doubled AS SELECT id, v * 2 AS w FROM "A"`); err != nil {
		t.Fatal(err)
	}
	runs := 0
	for rows, err := range db.Watch(ctx, `SELECT count(*) FROM doubled /* b */ WHERE w <> 'b'`) {
		if err != nil {
			t.Fatal(err)
		}
		var n int
		rows.Next()
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n != runs {
			t.Fatalf("run %d saw %d rows", runs, n)
		}
		if runs++; runs == 3 {
			break
		}
		for _, q := range []string{`INSERT INTO b (id, v) VALUES (?, 1)`, `INSERT INTO a (id, v) VALUES (?, 1)`} {
			if _, err := db.Execute(ctx, q, fmt.Sprint("x", runs)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if runs != 3 {
		t.Fatalf("%d runs", runs)
	}
	if got, err := db.tablesOf(ctx, `SELECT 'a' FROM "b" -- a`); err != nil || len(got) != 1 || got[0] != "b" {
		t.Fatalf("%v %v", got, err)
	}
}

// TestReconnect: the stream is cut again and again; every op arrives once, and
// nothing is downloaded twice (S7).
func TestReconnect(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		f := newFakeServer(t)
		f.do(func(s *simServer) { s.granted["p1"] = true })
		db := testDB(t, tempFile(t))
		if err := db.Connect(&testApp{f: f}, o); err != nil {
			t.Fatal(err)
		}
		for i := range int64(15) {
			f.do(func(s *simServer) {
				for k := range 10 {
					s.put("p1", "a", fmt.Sprint("r", k), "", fmt.Sprintf(`{"v":%d}`, i))
				}
			})
			if i%3 == 2 {
				f.cut()
			}
			eventually(t, "the newest rows", func() bool { return db.value(t, "a", "r9") == i && db.value(t, "a", "r0") == i })
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, r := range f.requests[1:] {
			if len(r.Buckets) != 1 || r.Buckets[0].After == 0 {
				t.Fatalf("request %d: %+v", i+1, r.Buckets)
			}
		}
	})
}

// TestBadBucket: a damaged op makes the client download that bucket again, and
// only that one (S3).
func TestBadBucket(t *testing.T) {
	for _, kind := range []string{"content", "missing"} {
		eachTransport(t, func(t *testing.T, o ConnectOptions) {
			f := newFakeServer(t)
			f.do(func(s *simServer) {
				s.granted["p1"], s.granted["p3a"] = true, true
				s.put("p1", "a", "r1", "", `{"v":1}`)
				s.put("p3a", "b", "r1", "", `{"v":1}`)
				s.put("p3a", "b", "r2", "", `{"v":1}`)
			})
			damaged := false
			f.damage = func(d *protocol.Data) {
				if d.Bucket != "p3a" || damaged {
					return
				}
				damaged = true
				d.Ops = append([]millrace.Op(nil), d.Ops...)
				if kind == "missing" {
					d.Ops = d.Ops[1:]
				} else {
					d.Ops[0].Data = `{"v":7}`
				}
			}
			db := testDB(t, tempFile(t))
			if err := db.Connect(&testApp{f: f}, o); err != nil {
				t.Fatal(err)
			}
			waitFor(t, db, "first sync", func(s Status) bool { return s.HasSynced })
			if db.value(t, "a", "r1") != 1 || db.value(t, "b", "r1") != 1 {
				t.Fatal("rows are wrong")
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			last := f.requests[len(f.requests)-1]
			if len(f.requests) != 2 || len(last.Buckets) != 1 || last.Buckets[0].Name != "p1" {
				t.Fatalf("%d requests, the last asks for %+v", len(f.requests), last.Buckets)
			}
		})
	}
}

// TestTokens: a refused token is replaced, one about to expire is renewed while
// the app stays connected, and being offline without one is no tragedy (D4, D5).
func TestTokens(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		f := newFakeServer(t)
		f.do(func(s *simServer) { s.granted["p1"] = true; s.put("p1", "a", "r1", "", `{"v":1}`) })
		f.refuse = func(token string) *protocol.ErrorBody {
			if token == "token-1" {
				return &protocol.ErrorBody{Code: protocol.CodeTokenExpired, Status: 401, Description: "JWT has expired"}
			}
			return nil
		}
		app := &testApp{f: f, fetchErr: errOffline}
		db := testDB(t, tempFile(t))
		if err := db.Connect(app, o); err != nil {
			t.Fatal(err)
		}
		waitFor(t, db, "the error", func(s Status) bool { return errors.Is(s.DownloadError, errOffline) })
		if _, err := db.Execute(context.Background(), `INSERT INTO b (id, v) VALUES ('x', 1)`); err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		f.expires = 20
		f.mu.Unlock()
		app.set(func(a *testApp) { a.fetchErr = nil })
		waitFor(t, db, "first sync", func(s Status) bool { return s.HasSynced })
		wasDown := false
		eventually(t, "the renewed token", func() bool {
			wasDown = wasDown || !db.Status().Connected
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, tok := range f.tokens {
				if tok == "token-3" {
					f.expires = 0
					return true
				}
			}
			return false
		})
		if wasDown {
			t.Error("renewing the token showed as a disconnect")
		}
	})
}

// TestFallback: where no WebSocket gets through, HTTP does.
func TestFallback(t *testing.T) {
	f := newFakeServer(t)
	f.noWS = true
	f.do(func(s *simServer) { s.granted["p1"] = true; s.put("p1", "a", "r1", "", `{"v":1}`) })
	db := testDB(t, tempFile(t))
	if err := db.Connect(&testApp{f: f}, fast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, db, "first sync", func(s Status) bool { return s.HasSynced && s.Connected })
}

// TestUploadErrors: a failing upload is visible and retried; a rejected one is
// kept aside, and the server's version comes back (U2, U3).
func TestUploadErrors(t *testing.T) {
	ctx := context.Background()
	f := newFakeServer(t)
	f.do(func(s *simServer) { s.granted["p1"] = true; s.put("p1", "a", "r1", "", `{"v":1}`) })
	app := &testApp{f: f, uploadErr: errors.New("the backend is ill")}
	db := testDB(t, tempFile(t))
	if err := db.Connect(app, fast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, db, "first sync", func(s Status) bool { return s.HasSynced })
	if _, err := db.Execute(ctx, `UPDATE a SET v = 2 WHERE id = 'r1'`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three attempts", func() bool {
		q, err := db.UploadQueue(ctx, 10)
		return err == nil && len(q) == 1 && q[0].Attempts >= 3 && strings.Contains(q[0].LastError, "ill")
	})
	if err := db.Status().UploadError; err == nil || !strings.Contains(err.Error(), "ill") {
		t.Fatalf("upload error %v", err)
	}
	tx, err := db.NextTransaction(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Reject(ctx, "no such list"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server's version", func() bool { return db.value(t, "a", "r1") == 1 })
	r, err := db.RejectedUploads(ctx, 10)
	if err != nil || len(r) != 1 || r[0].Reason != "no such list" || r[0].ID != "r1" {
		t.Fatalf("%+v %v", r, err)
	}
	waitFor(t, db, "no error", func(s Status) bool { return s.UploadError == nil })
}

// TestRestart: what was there is there again after a restart, offline; a write
// made offline goes up later.
func TestRestart(t *testing.T) {
	ctx := context.Background()
	f := newFakeServer(t)
	f.do(func(s *simServer) { s.granted["p1"] = true; s.put("p1", "a", "r1", "", `{"v":1}`) })
	path := tempFile(t)
	db := testDB(t, path)
	if err := db.Connect(&testApp{f: f}, fast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, db, "first sync", func(s Status) bool { return s.HasSynced })
	id, err := db.ClientID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	f.setDown(true)
	db = testDB(t, path)
	if again, err := db.ClientID(ctx); err != nil || again != id {
		t.Fatalf("client id %s, then %s, %v", id, again, err)
	}
	if err := db.WaitForFirstSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := db.Connect(&testApp{f: f}, fast); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Execute(ctx, `UPDATE a SET v = 2 WHERE id = 'r1'`); err != nil {
		t.Fatal(err)
	}
	waitFor(t, db, "an error", func(s Status) bool { return s.DownloadError != nil })
	f.setDown(false)
	waitFor(t, db, "in sync again", func(s Status) bool { return s.Connected && s.DownloadError == nil })
	eventually(t, "the gate to open", func() bool {
		var local, queued int
		err := db.QueryRow(ctx, `SELECT (SELECT count(*) FROM mr_rows WHERE bucket = 0), (SELECT count(*) FROM mr_queue)`).Scan(&local, &queued)
		return err == nil && local == 0 && queued == 0 && db.value(t, "a", "r1") == 2
	})
	if err := db.DisconnectAndClear(ctx, false); err != nil {
		t.Fatal(err)
	}
	if db.value(t, "a", "r1") != -1 || db.Status().HasSynced {
		t.Fatal("something is left after DisconnectAndClear")
	}
}

// TestSubscriptions: subscribing reaches the server while connected, and is
// waited for (D6).
func TestSubscriptions(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		f := newFakeServer(t)
		f.do(func(s *simServer) { s.granted["p1"] = true; s.put("p1", "a", "r1", "", `{"v":1}`) })
		db := testDB(t, tempFile(t))
		if err := db.Connect(&testApp{f: f}, o); err != nil {
			t.Fatal(err)
		}
		waitFor(t, db, "first sync", func(s Status) bool { return s.HasSynced })
		one := 1
		sub, err := db.SyncStream(ctx, "project", map[string]any{"id": "p9"}, SubscribeOptions{Priority: &one, TTL: -1})
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.WaitForFirstSync(ctx); err != nil {
			t.Fatal(err)
		}
		last := func() protocol.StreamSelection {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.requests[len(f.requests)-1].Streams
		}
		got := last()
		if len(got.Subscriptions) != 1 || string(got.Subscriptions[0].Parameters) != `{"id":"p9"}` || got.Subscriptions[0].Priority != 1 || !got.IncludeDefaults {
			t.Fatalf("%+v", got)
		}
		if err := sub.Unsubscribe(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of the subscription", func() bool { return len(last().Subscriptions) == 0 })
	})
}
