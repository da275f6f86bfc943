package clientsdk

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// put stages and publishes rows of one bucket, as a server would.
func publishRows(t *testing.T, s *store, op millrace.OpID, ops ...millrace.Op) {
	t.Helper()
	ctx := context.Background()
	for i := range ops {
		ops[i].ID = op + millrace.OpID(i)
		ops[i].Kind = millrace.OpPut
		ops[i].Checksum = millrace.PutChecksum(ops[i].Type, ops[i].RowID, "", ops[i].Data)
	}
	if _, err := s.begin(ctx, false, []protocol.Bucket{{Name: "b"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.stage(ctx, []*protocol.Data{{Bucket: "b", Ops: ops}}, true); err != nil {
		t.Fatal(err)
	}
	sum := s.buckets["b"].checksum
	out, err := s.complete(ctx, completion{OpID: ops[len(ops)-1].ID, Full: true, Buckets: []protocol.Bucket{{Name: "b", Checksum: sum}}})
	if err != nil || !out.Published {
		t.Fatalf("%+v %v", out, err)
	}
}

// TestSchemaChange: tables, columns and indexes come and go, no row is touched
// (S9).
func TestSchemaChange(t *testing.T) {
	ctx := context.Background()
	path := tempFile(t)
	s := reopenStore(t, path, Schema{})
	publishRows(t, s, 1,
		millrace.Op{Type: "todos", RowID: "t1", Data: `{"id":"t1","title":"Milk","done":"1","rank":2.5}`},
		millrace.Op{Type: "todos", RowID: "t2", Data: `{"id":"t2","title":"Bread","done":0}`})
	content := func() string {
		var all string
		if err := s.readers.QueryRowContext(ctx, `SELECT group_concat(rowid || bucket || op_id || type || id || data || shown) FROM mr_rows`).Scan(&all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	before := content()
	one := Schema{Tables: []Table{{Name: "todos", Columns: []Column{{Name: "title"}, {Name: "done", Type: Integer}},
		Indexes: []Index{{Name: "by_title", Columns: []IndexColumn{{Name: "title"}, {Name: "done", Descending: true}}}}}}}
	two := Schema{Tables: []Table{{Name: "todos", Columns: []Column{{Name: "rank", Type: Real}, {Name: "title"}}}, {Name: "lists"}}}
	for _, sc := range []Schema{one, two, one, {}, one} {
		if err := s.applySchema(ctx, &sc); err != nil {
			t.Fatal(err)
		}
		if after := content(); after != before {
			t.Fatalf("rows changed:\n%s\n%s", before, after)
		}
	}
	var title string
	var done int
	if err := s.readers.QueryRowContext(ctx, `SELECT title, done FROM todos WHERE title = 'Milk'`).Scan(&title, &done); err != nil || done != 1 {
		t.Fatalf("%s %d %v", title, done, err)
	}
	var plan string
	var ignored any
	if err := s.readers.QueryRowContext(ctx, `EXPLAIN QUERY PLAN SELECT id FROM todos WHERE title = 'Milk'`).Scan(&ignored, &ignored, &ignored, &plan); err != nil || !strings.Contains(plan, "mr_t_todos_by_title") {
		t.Fatalf("%q %v", plan, err)
	}
	if err := s.applySchema(ctx, &two); err != nil {
		t.Fatal(err)
	}
	var rank sql.NullFloat64
	if err := s.readers.QueryRowContext(ctx, `SELECT rank FROM todos WHERE id = 't1'`).Scan(&rank); err != nil || rank.Float64 != 2.5 {
		t.Fatalf("%v %v", rank, err)
	}
	var indexes int
	if err := s.readers.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND name LIKE 'mr_t_%'`).Scan(&indexes); err != nil || indexes != 0 {
		t.Fatalf("%d indexes are left, %v", indexes, err)
	}
}

func TestSchemaErrors(t *testing.T) {
	for _, c := range []struct {
		want   string
		schema Schema
	}{
		{`table "": the name is empty`, Schema{Tables: []Table{{}}}},
		{`table "A" is there twice`, Schema{Tables: []Table{{Name: "a"}, {Name: "A"}}}},
		{`names that start with mr_`, Schema{Tables: []Table{{Name: "mr_rows"}}}},
		{`quote`, Schema{Tables: []Table{{Name: `a"b`}}}},
		{`column "ID": every table has an id`, Schema{Tables: []Table{{Name: "a", Columns: []Column{{Name: "ID"}}}}}},
		{`column "x" is there twice`, Schema{Tables: []Table{{Name: "a", Columns: []Column{{Name: "X"}, {Name: "x"}}}}}},
		{`unknown type "BLOB"`, Schema{Tables: []Table{{Name: "a", Columns: []Column{{Name: "x", Type: "BLOB"}}}}}},
		{`index "i": no column "y"`, Schema{Tables: []Table{{Name: "a", Indexes: []Index{{Name: "i", Columns: []IndexColumn{{Name: "y"}}}}}}}},
		{`index "i" has no columns`, Schema{Tables: []Table{{Name: "a", Indexes: []Index{{Name: "i"}}}}}},
		{`exclude each other`, Schema{Tables: []Table{{Name: "a", LocalOnly: true, InsertOnly: true}}}},
	} {
		if err := c.schema.validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, not %q", err, c.want)
		}
	}
}

// TestLocalWrites: what the triggers queue, refuse and keep.
func TestLocalWrites(t *testing.T) {
	ctx := context.Background()
	db := &DB{store: testStore(t, Schema{Tables: []Table{
		{Name: "todos", Columns: []Column{{Name: "title"}, {Name: "done", Type: Integer}, {Name: "weird name"}}},
		{Name: "drafts", Columns: []Column{{Name: "text"}}, LocalOnly: true},
		{Name: "events", Columns: []Column{{Name: "what"}}, InsertOnly: true},
	}})}
	publishRows(t, db.store, 1, millrace.Op{Type: "todos", RowID: "t1", Data: `{"title":"Milk","done":1,"hidden":"kept"}`})
	exec := func(q string, args ...any) {
		t.Helper()
		if _, err := db.Execute(ctx, q, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO todos (id, title, "weird name") VALUES ('t2', 'It''s "quoted"', 'x')`)
	exec(`UPDATE todos SET done = NULL, title = title || '!'`)
	exec(`UPDATE todos SET title = 'same' WHERE id = 'nobody'`)
	exec(`DELETE FROM todos WHERE id = 't2'`)
	exec(`INSERT INTO drafts (id, text) VALUES ('d', 'a')`)
	exec(`UPDATE drafts SET text = 'b'`)
	exec(`INSERT INTO events (id, what) VALUES ('e', 'click')`)
	for _, c := range []struct{ q, want string }{
		{`INSERT INTO todos (title) VALUES ('x')`, "needs a text id"},
		{`INSERT INTO todos (id) VALUES (7)`, "needs a text id"},
		{`INSERT INTO todos (id) VALUES ('t1')`, "UNIQUE constraint failed"},
		{`UPDATE todos SET id = 'other'`, "cannot change"},
		{`INSERT INTO todos (id, title) VALUES ('b', x'00')`, "BLOB"},
	} {
		if _, err := db.Execute(ctx, c.q); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %q", c.q, err, c.want)
		}
	}
	q, err := db.UploadQueue(ctx, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range q {
		got = append(got, fmt.Sprintf("%d %s %s %s %s", e.Transaction, e.Kind, e.Type, e.ID, e.Data))
	}
	want := `1 PUT todos t2 {"title":"It's \"quoted\"","weird name":"x"}
2 PATCH todos t1 {"title":"Milk!","done":null}
2 PATCH todos t2 {"title":"It's \"quoted\"!"}
4 DELETE todos t2 ` + `
7 PUT events e {"what":"click"}`
	if have := strings.Join(got, "\n"); have != want {
		t.Errorf("queued:\n%s\nnot:\n%s", have, want)
	}
	var data, draft string
	var events int
	err = db.QueryRow(ctx, `SELECT (SELECT data FROM mr_rows WHERE id = 't1' AND shown), (SELECT text FROM drafts), (SELECT count(*) FROM events)`).Scan(&data, &draft, &events)
	if err != nil || data != `{"title":"Milk!","hidden":"kept"}` || draft != "b" || events != 0 {
		t.Errorf("%s %s %d %v", data, draft, events, err)
	}
}

// TestInterrupted: a statement of the app that is cancelled ends its
// transaction, whatever the app makes of the error.
func TestInterrupted(t *testing.T) {
	ctx := context.Background()
	db := &DB{store: testStore(t, modelSchema)}
	err := db.Transaction(ctx, func(tx *Tx) error {
		if _, err := tx.Execute(ctx, `INSERT INTO a (id) VALUES ('x')`); err != nil {
			return err
		}
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := tx.Execute(gone, `INSERT INTO a (id) VALUES ('y')`); err == nil {
			t.Error("no error")
		}
		_, err := tx.Execute(ctx, `INSERT INTO a (id) VALUES ('z')`)
		if err == nil {
			t.Error("the transaction goes on")
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if n := db.value(t, "a", "x"); n != -1 {
		t.Fatal("half a transaction was committed")
	}
	if _, err := db.Execute(ctx, `INSERT INTO a (id) VALUES ('x')`); err != nil {
		t.Fatal(err)
	}
}

// TestNoHalfState: readers that look all the time see only whole checkpoints,
// and only whole local transactions (S2).
func TestNoHalfState(t *testing.T) {
	ctx := context.Background()
	db := &DB{store: testStore(t, modelSchema)}
	const rows = 40
	publish := func(i int) {
		ops := make([]millrace.Op, rows)
		for k := range ops {
			ops[k] = millrace.Op{Type: "a", RowID: fmt.Sprint("r", k), Data: fmt.Sprintf(`{"v":%d}`, i)}
		}
		publishRows(t, db.store, millrace.OpID(1+i*rows), ops...)
	}
	publish(0)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for looks := 0; ; looks++ {
				var low, high, n int
				if err := db.QueryRow(ctx, `SELECT min(v), max(v), count(*) FROM a`).Scan(&low, &high, &n); err != nil {
					t.Error(err)
					return
				}
				if low != high || n != rows {
					t.Errorf("%d rows from %d to %d", n, low, high)
					return
				}
				select {
				case <-done:
					if looks == 0 {
						t.Error("never looked")
					}
					return
				default:
				}
			}
		})
	}
	for i := 1; i < 60; i++ {
		if i%7 == 0 {
			if _, err := db.Execute(ctx, `UPDATE a SET v = ?`, i+1000); err != nil {
				t.Fatal(err)
			}
			for {
				tx, err := db.NextTransaction(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if tx == nil {
					break
				}
				if err := tx.Complete(ctx); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := db.store.setTarget(ctx, 0, int64(rows*i/7)); err != nil {
				t.Fatal(err)
			}
		}
		publish(i)
	}
	close(done)
	wg.Wait()
}

// TestClosed: a closed database answers with errors, and ends who waits.
func TestClosed(t *testing.T) {
	ctx := context.Background()
	db := testDB(t, tempFile(t))
	if _, err := db.Execute(ctx, `INSERT INTO a (id) VALUES ('x')`); err != nil {
		t.Fatal(err)
	}
	upload, err := db.NextTransaction(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.WaitForFirstSync(ctx); !errors.Is(err, ErrClosed) {
			t.Errorf("waiting: %v", err)
		}
	})
	wg.Go(func() {
		for range db.WatchTables(ctx, 0) {
		}
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := db.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if _, err := db.Execute(ctx, `DELETE FROM a`); !errors.Is(err, ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if err := upload.Complete(ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("complete: %v", err)
	}
	if _, err := db.Query(ctx, `SELECT 1`); err == nil {
		t.Error("query: no error")
	}
	if err := db.Connect(connectorFunc(func() Credentials { return Credentials{} }), fast); !errors.Is(err, ErrClosed) {
		t.Errorf("connect: %v", err)
	}
	db.Disconnect()
	db.Reconnect()
}

// TestLayout: the file is as SPEC.md says, whatever driver made it.
func TestLayout(t *testing.T) {
	ctx := context.Background()
	s := testStore(t, modelSchema)
	for pragma, want := range map[string]string{"journal_mode": "wal", "page_size": "8192"} {
		var got string
		if err := s.readers.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %s, %v", pragma, got, err)
		}
	}
	if _, err := s.readers.ExecContext(ctx, `DELETE FROM mr_rows`); err == nil {
		t.Error("a reading connection writes")
	}
	if err := s.write(ctx, false, func(t *txn) error { return t.exec(`UPDATE mr_state SET format = 99`) }); err != nil {
		t.Fatal(err)
	}
	var path string
	if err := s.readers.QueryRowContext(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&path); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(ctx, Options{Path: path}); err == nil || !strings.Contains(err.Error(), "storage format 99") {
		t.Errorf("a newer file: %v", err)
	}
	if _, err := Open(ctx, Options{Path: path, Driver: "nosuch"}); err == nil || !strings.Contains(err.Error(), "is the driver imported?") {
		t.Errorf("no driver: %v", err)
	}
	if _, err := Open(ctx, Options{}); err == nil {
		t.Error("no path: no error")
	}
}
