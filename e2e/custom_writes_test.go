package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgtest"
)

// laterDevice is a device whose backend applies uploads later.
type laterDevice struct {
	*device
	backend *laterBackend
}

// UploadData implements clientsdk.Connector.
func (v *laterDevice) UploadData(ctx context.Context, db *clientsdk.DB) error {
	client, err := db.ClientID(ctx)
	if err != nil {
		return err
	}
	for {
		tx, err := db.NextTransaction(ctx)
		if err != nil || tx == nil {
			return err
		}
		number, err := v.send(ctx, client, tx)
		if err != nil {
			return err
		}
		if err := tx.CompleteWith(ctx, number); err != nil {
			return err
		}
	}
}

// send uploads a transaction and gives the backend's number.
func (v *laterDevice) send(ctx context.Context, client string, tx *clientsdk.UploadTransaction) (int64, error) {
	body, err := json.Marshal(map[string]any{"client_id": client, "transactions": []any{map[string]any{"id": strconv.FormatInt(tx.ID, 10), "ops": tx.Ops}}})
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.backend.url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+v.d.token(v.user))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the backend answers %d %s (%v)", resp.StatusCode, text, err)
	}
	var answer struct{ Checkpoint string }
	if err := json.Unmarshal(text, &answer); err != nil {
		return 0, err
	}
	return strconv.ParseInt(answer.Checkpoint, 10, 64)
}

func (v *laterDevice) connect() {
	v.t.Helper()
	if err := v.db.Connect(v, clientsdk.ConnectOptions{Transport: v.transport, RetryMin: 50 * time.Millisecond, RetryMax: time.Second}); err != nil {
		v.t.Fatal(err)
	}
}

const laterList, laterTodo = "eeeeeeee-0000-4000-a000-000000000007", "eeeeeeee-0000-4000-b000-000000000007"

// number is how far the device shows that its to-do was written; the list's name
// says how far others have come.
func (v *laterDevice) number(ctx context.Context) (own int, list string, err error) {
	rows, err := v.db.Query(ctx, `SELECT t.title, l.name FROM todos t JOIN lists l ON l.id = t.list_id WHERE t.id = '`+laterTodo+`'`)
	if err != nil {
		return 0, "", err
	}
	defer rows.Close()
	if !rows.Next() {
		return 0, "", errors.Join(errors.New("the to-do is not shown"), rows.Err())
	}
	var title string
	if err := rows.Scan(&title, &list); err != nil {
		return 0, "", err
	}
	own, err = strconv.Atoi(title)
	return own, list, err
}

// R40: with a backend that applies uploads after it accepted them, what a device
// wrote never goes back to what it was, however checkpoints come in between, and
// with the server killed between the data and its number; and what others write
// comes as well.
func TestR40_WritesAppliedLater(t *testing.T) {
	d, backend := newLaterDemo(t, "write_checkpoints")
	execSQL(t, d.sourceURI, `INSERT INTO lists (id, name, owner_id) VALUES ('`+laterList+`', '0', 'alice');
		INSERT INTO todos (id, list_id, title, created_by) VALUES ('`+laterTodo+`', '`+laterList+`', '0', 'alice')`)
	d.start()
	d.ready()
	v := &laterDevice{newDevice(t, d, "phone", "alice", clientsdk.Auto), backend}
	v.connect()
	v.inSync(time.Minute)
	ctx := t.Context()

	// Data without its number opens nothing, and the number does, though the
	// server died in between.
	write := func(n int) {
		t.Helper()
		if _, err := v.db.Execute(ctx, `UPDATE todos SET title = ? WHERE id = ?`, strconv.Itoa(n), laterTodo); err != nil {
			t.Fatal(err)
		}
	}
	shows := func(what string, want int, list string) {
		t.Helper()
		pgtest.Eventually(t, time.Minute, func() error {
			own, name, err := v.number(ctx)
			if err == nil && (own != want || name != list) {
				err = fmt.Errorf("%s: to-do %d of list %q, want %d of %q; %+v", what, own, name, want, list, v.db.Status())
			}
			return err
		})
	}
	write(1)
	pgtest.Eventually(t, time.Minute, func() error {
		if backend.waiting() == 0 {
			return errors.New("nothing was uploaded")
		}
		return nil
	})
	execSQL(t, d.sourceURI, `UPDATE lists SET name = '1' WHERE id = '`+laterList+`'`)
	held := func() {
		t.Helper()
		pgtest.Eventually(t, time.Minute, func() error {
			if s := v.db.Status(); !s.Held || s.Uploading {
				return fmt.Errorf("no newer state is held back: %+v", s)
			}
			return nil
		})
	}
	held()
	shows("before the upload is applied", 1, "0")
	if _, err := backend.apply(ctx, func() {
		held()
		shows("with the data and no number", 1, "0")
		d.process.kill9(t)
	}); err != nil {
		t.Fatal(err)
	}
	d.start()
	d.ready()
	shows("with the number", 1, "1")
	v.inSync(time.Minute)
	if got := query[string](t, d.sidecarURI, `SELECT string_agg(kind || ' ' || acknowledged_id || ' ' || served, ',') FROM millrace.write_checkpoints WHERE kind = 'custom'`); got != "custom 1 true" {
		t.Errorf("millrace.write_checkpoints says %q", got)
	}

	// The same under load.
	const writes = 40
	rnd := rand.New(rand.NewPCG(7, 5))
	stop, applied := make(chan struct{}), make(chan error, 1)
	go func() {
		applied <- backend.applyAll(stop, func() time.Duration { return time.Duration(rand.IntN(30)) * time.Millisecond })
	}()
	watched, quit := make(chan error, 1), make(chan struct{})
	go func() {
		last, looks := 0, 0
		for ; ; looks++ {
			own, _, err := v.number(context.Background())
			switch {
			case err != nil:
				watched <- err
				return
			case own < last:
				watched <- fmt.Errorf("the device shows %d after %d", own, last)
				return
			}
			last = own
			select {
			case <-quit:
				watched <- nil
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	for i := 2; i <= writes; i++ {
		write(i)
		execSQL(t, d.sourceURI, fmt.Sprintf(`UPDATE lists SET name = '%d' WHERE id = '%s'`, i, laterList))
		if i%15 == 0 {
			d.process.kill9(t)
			d.start()
			d.ready()
		}
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
	}
	pgtest.Eventually(t, time.Minute, func() error {
		queue, err := v.db.UploadQueue(ctx, 1)
		if err == nil && len(queue) > 0 {
			err = errors.New("something waits for upload")
		}
		return err
	})
	close(stop)
	if err := <-applied; err != nil {
		t.Fatal(err)
	}
	v.inSync(time.Minute)
	close(quit)
	if err := <-watched; err != nil {
		t.Error(err)
	}
	shows("at the end", writes, strconv.Itoa(writes))
}

// The official client with a backend that applies uploads later. With numbers of
// its own (checkpoint requests) it holds its writes until the backend has applied
// them. With numbers of the backend it loses the one given with its last upload
// (shared-internals 1.3.0), asks the relay, and goes on.
func TestOfficialCustomWriteCheckpoints(t *testing.T) {
	for _, c := range []struct{ event, checkpoints string }{{"write_checkpoints", "legacy"}, {"checkpoint_requests", "requests"}} {
		t.Run(c.checkpoints, func(t *testing.T) {
			d, backend := newLaterDemo(t, c.event)
			execSQL(t, d.sourceURI, `INSERT INTO lists (id, name, owner_id) VALUES ('`+laterList+`', '0', 'alice');
				INSERT INTO todos (id, list_id, title, created_by) VALUES ('`+laterTodo+`', '`+laterList+`', '0', 'alice')`)
			d.start()
			d.ready()
			o := startOfficialClient(t)
			o.do(command{Do: "open", User: "alice", File: filepath.Join(t.TempDir(), "alice.db"), Endpoint: d.url, Token: d.token("alice"), Upload: backend.url}, nil)
			o.do(command{Do: "connect", User: "alice", Checkpoints: c.checkpoints, Custom: true}, nil)
			stop, applied := make(chan struct{}), make(chan error, 1)
			inSync := func(after string) {
				t.Helper()
				pgtest.Eventually(t, time.Minute, func() error {
					if err := o.shown("alice").mustEqual(mustBeEntitledTo(t, d.sourceURI, "alice")); err != nil {
						return fmt.Errorf("after %s: %w; gate %+v", after, err, o.gate("alice"))
					}
					return nil
				})
			}
			// A client that gives numbers posts one when it connects.
			if c.checkpoints == "requests" {
				pgtest.Eventually(t, time.Minute, func() error {
					if backend.waiting() == 0 {
						return errors.New("no number was posted")
					}
					return nil
				})
				if _, err := backend.apply(t.Context(), func() {}); err != nil {
					t.Fatal(err)
				}
			}
			inSync("the start")
			o.do(command{Do: "execute", User: "alice", SQL: `UPDATE todos SET title = '1' WHERE id = ?`, Args: []any{laterTodo}}, nil)
			want := 1
			if c.checkpoints == "requests" {
				want = 2 // the upload, then the number
			}
			pgtest.Eventually(t, time.Minute, func() error {
				if n := backend.waiting(); n < want {
					return fmt.Errorf("%d of %d are accepted", n, want)
				}
				return nil
			})
			title := func() string { return o.shown("alice")["todos/"+laterTodo] }
			if c.checkpoints == "requests" {
				// Whatever comes meanwhile is held back.
				execSQL(t, d.sourceURI, `UPDATE lists SET name = 'renamed' WHERE id = '`+laterList+`'`)
				d.settled()
				for range 20 {
					if got := o.shown("alice"); !strings.Contains(got["todos/"+laterTodo], `"title":"1"`) || !strings.Contains(got["lists/"+laterList], `"name":"0"`) {
						t.Fatalf("before the upload was applied the client shows %s and %s", got["todos/"+laterTodo], got["lists/"+laterList])
					}
					time.Sleep(20 * time.Millisecond)
				}
			}
			go func() { applied <- backend.applyAll(stop, func() time.Duration { return 5 * time.Millisecond }) }()
			inSync("the upload was applied")
			if got := title(); !strings.Contains(got, `"title":"1"`) {
				t.Errorf("the client shows %s", got)
			}
			// Several transactions at once.
			for i := 2; i <= 6; i++ {
				o.do(command{Do: "execute", User: "alice", SQL: `UPDATE todos SET title = ? WHERE id = ?`, Args: []any{strconv.Itoa(i), laterTodo}}, nil)
			}
			pgtest.Eventually(t, time.Minute, func() error {
				if got := query[string](t, d.sourceURI, `SELECT title FROM todos WHERE id = '`+laterTodo+`'`); got != "6" {
					return fmt.Errorf("the source has %s", got)
				}
				return nil
			})
			inSync("more uploads")
			if g := o.gate("alice"); g.Queued != 0 || g.Target == closedGate {
				t.Errorf("the gate is shut: %+v", g)
			}
			if c.checkpoints == "requests" {
				pgtest.Eventually(t, time.Minute, func() error { return o.gate("alice").open() })
			}
			close(stop)
			if err := <-applied; err != nil {
				t.Error(err)
			}
			o.do(command{Do: "close", User: "alice"}, nil)
		})
	}
}

// settled waits until the sidecar has everything that the source committed.
func (d *demoSystem) settled() {
	d.t.Helper()
	head := query[string](d.t, d.sourceURI, `SELECT pg_current_wal_insert_lsn()::text`)
	execSQL(d.t, d.sourceURI, `SELECT pg_logical_emit_message(true, 'test', '')`)
	pgtest.Eventually(d.t, time.Minute, func() error {
		if !query[bool](d.t, d.sidecarURI, `SELECT bool_and(durable >= '`+head+`'::pg_lsn) FROM millrace.sources`) {
			return errors.New("the sidecar is behind")
		}
		return nil
	})
}
