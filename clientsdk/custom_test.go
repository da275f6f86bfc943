package clientsdk

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/relay/relaytest"
)

// laterApp is a connector whose backend numbers uploads and applies them when
// the test says so.
type laterApp struct {
	relayApp
	accepted int64
	// before is called with the number before the transaction is completed.
	before func(ctx context.Context, db *DB, number int64)
}

func (a *laterApp) UploadData(ctx context.Context, db *DB) error {
	for {
		tx, err := db.NextTransaction(ctx)
		if err != nil || tx == nil {
			return err
		}
		a.mu.Lock()
		a.accepted++
		number, before := a.accepted, a.before
		a.mu.Unlock()
		if before != nil {
			before(ctx, db, number)
		}
		if err := tx.CompleteWith(ctx, number); err != nil {
			return err
		}
	}
}

func (a *laterApp) last() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.accepted
}

// TestRelayCustomWriteCheckpoint: with a backend that applies uploads later, own
// writes stay in sight until the backend's number comes, whatever comes before,
// and over a new connection too, on which the relay is asked for a number and has
// none.
func TestRelayCustomWriteCheckpoint(t *testing.T) {
	eachTransport(t, func(t *testing.T, o ConnectOptions) {
		ctx := context.Background()
		side := relaytest.NewSidecar()
		srv := relaytest.Serve(t, side)
		side.Activate("custom")
		side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "a", "r1", `{"v":1}`) })
		db := testDB(t, tempFile(t))
		app := &laterApp{relayApp: relayApp{user: "alice", side: side, url: srv.URL, ttl: time.Hour}}
		if err := db.Connect(app, o); err != nil {
			t.Fatal(err)
		}
		if err := db.WaitForFirstSync(ctx); err != nil {
			t.Fatal(err)
		}
		client, err := db.ClientID(ctx)
		if err != nil {
			t.Fatal(err)
		}
		device := "alice/" + client
		update := func(v int) {
			t.Helper()
			if _, err := db.Execute(ctx, `UPDATE a SET v = ? WHERE id = 'r1'`, v); err != nil {
				t.Fatal(err)
			}
		}
		update(2)
		update(3)
		eventually(t, "the uploads", func() bool { return app.last() == 2 && !db.Status().Uploading })
		side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "b", "x", `{"v":3}`) })
		held := func(what string) {
			t.Helper()
			waitFor(t, db, what, func(s Status) bool { return s.Held && !s.Uploading })
			if db.value(t, "a", "r1") != 3 || db.value(t, "b", "x") != -1 {
				t.Fatalf("%s: the gate leaks", what)
			}
		}
		held("nothing is applied")
		side.Commit(func(tx *relaytest.Tx) {
			tx.Put("mine", "alice", "a", "r1", `{"v":2}`)
			tx.Mark(device, 1)
		})
		held("the first of two is applied")
		db.Disconnect()
		if err := db.Connect(app, o); err != nil {
			t.Fatal(err)
		}
		held("on a new connection")
		var target int64
		read := func() {
			t.Helper()
			if err := db.store.readers.QueryRowContext(ctx, `SELECT target FROM mr_state`).Scan(&target); err != nil {
				t.Fatal(err)
			}
		}
		if read(); target != 2 {
			t.Errorf("the gate waits for %d, want 2", target)
		}
		side.Commit(func(tx *relaytest.Tx) {
			tx.Put("mine", "alice", "a", "r1", `{"v":30}`) // the backend's own mind
			tx.Mark(device, 2)
		})
		eventually(t, "the gate to open", func() bool { return db.value(t, "b", "x") == 3 && db.value(t, "a", "r1") == 30 })

		// The number comes down before the upload's answer does.
		app.mu.Lock()
		app.before = func(ctx context.Context, db *DB, number int64) {
			side.Commit(func(tx *relaytest.Tx) {
				tx.Put("mine", "alice", "a", "r1", `{"v":40}`)
				tx.Mark(device, number)
			})
			// It has come when the newest completion says so.
			for seen := int64(0); seen < number && ctx.Err() == nil; time.Sleep(time.Millisecond) {
				if err := db.store.readers.QueryRowContext(ctx, `SELECT seen FROM mr_state`).Scan(&seen); err != nil {
					return
				}
			}
		}
		app.mu.Unlock()
		update(4)
		eventually(t, "the gate to open at once", func() bool { return db.value(t, "a", "r1") == 40 })

		// The rules have no event any more: the relay gives numbers again.
		app.mu.Lock()
		app.before = nil
		app.mu.Unlock()
		side.Activate("")
		update(5)
		uploaded := func() bool {
			queue, err := db.UploadQueue(ctx, 1)
			return err == nil && len(queue) == 0 && !db.Status().Uploading
		}
		eventually(t, "the upload", uploaded)
		db.Disconnect()
		if err := db.Connect(app, o); err != nil {
			t.Fatal(err)
		}
		side.Commit(func(tx *relaytest.Tx) { tx.Put("global", "", "b", "x", `{"v":4}`) })
		eventually(t, "the gate to open by the relay's number", func() bool { return db.value(t, "b", "x") == 4 })
	})
}

// TestCompleteWith: the number that empties the queue counts; a write in between
// needs another one.
func TestCompleteWith(t *testing.T) {
	ctx := context.Background()
	db := testDB(t, tempFile(t))
	execute := func(sql string) {
		t.Helper()
		if _, err := db.Execute(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	next := func() *UploadTransaction {
		t.Helper()
		tx, err := db.NextTransaction(ctx)
		if err != nil || tx == nil {
			t.Fatal(tx, err)
		}
		return tx
	}
	target := func() (target int64, custom bool) {
		t.Helper()
		if err := db.store.readers.QueryRowContext(ctx, `SELECT target, custom FROM mr_state`).Scan(&target, &custom); err != nil {
			t.Fatal(err)
		}
		return target, custom
	}
	complete := func(tx *UploadTransaction, id int64) {
		t.Helper()
		if err := tx.CompleteWith(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	execute(`INSERT INTO a (id, v) VALUES ('1', 1)`)
	execute(`INSERT INTO a (id, v) VALUES ('2', 1)`)
	first := next()
	for _, id := range []int64{0, -1, openTarget} {
		if err := first.CompleteWith(ctx, id); err == nil {
			t.Errorf("write checkpoint %d is taken", id)
		}
	}
	complete(first, 7)
	if got, _ := target(); got != openTarget {
		t.Errorf("while another waits the target is %d", got)
	}
	second := next()
	complete(second, 8)
	if got, custom := target(); got != 8 || !custom {
		t.Errorf("the target is %d (%v)", got, custom)
	}
	complete(first, 9) // again
	if got, _ := target(); got != 8 {
		t.Errorf("after completing twice the target is %d", got)
	}
	set := func(id, want int64, custom bool) {
		t.Helper()
		if _, err := db.store.setTarget(ctx, id, 2); err != nil {
			t.Fatal(err)
		}
		if got, is := target(); got != want || is != custom {
			t.Errorf("told %d, the target is %d (%v), want %d", id, got, is, want)
		}
	}
	set(3, 8, true)
	set(1000, 1000, false)
	set(900, 900, false)
	execute(`INSERT INTO a (id, v) VALUES ('3', 1)`)
	if got, _ := target(); got != openTarget {
		t.Errorf("after a write the target is %d", got)
	}
}

// A file from before custom write checkpoints is taken up.
func TestOpenFileWithoutCustom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	db := testDB(t, path)
	if _, err := db.Execute(t.Context(), `INSERT INTO a (id, v) VALUES ('1', 1)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.ExecContext(t.Context(), `ALTER TABLE mr_state DROP COLUMN custom`); err != nil {
		t.Fatal(err)
	}
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	db = testDB(t, path)
	tx, err := db.NextTransaction(t.Context())
	if err != nil || tx == nil {
		t.Fatal(tx, err)
	}
	if err := tx.CompleteWith(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
}
