package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgtest"
)

const notesRules = `
bucket_definitions:
  notes:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT id, body FROM notes WHERE owner = bucket.owner
`

// TestSA05_OneServer: source and sidecar on one server (one database is refused), idle.
// What is written to the sidecar moves the source's position, which is written to the
// sidecar in turn: that must not feed itself. Positions alone are written once in ten
// seconds at most.
func TestSA05_OneServer(t *testing.T) {
	t.Parallel()
	a := newApp(t, `CREATE TABLE notes (id text PRIMARY KEY, body text, owner text); INSERT INTO notes VALUES ('1', 'one', 'alice')`, notesRules, "")
	d := newAppDevice(a, "alice", "alice", clientsdk.Table{Name: "notes", Columns: []clientsdk.Column{{Name: "body"}}})
	d.connect()
	d.shows(`SELECT id, body FROM notes`, map[string]string{"1": "one"})
	const state = `SELECT seq || ' ' || op_id || ' ' || extract(epoch FROM clock_timestamp())::int8 FROM millrace.head`
	read := func() (seq, op, at int64) {
		t.Helper()
		if _, err := fmt.Sscan(query[string](t, a.sidecarURI, state), &seq, &op, &at); err != nil {
			t.Fatal(err)
		}
		return seq, op, at
	}
	// Until a position alone was written: from then on nothing else is to come.
	first, op, _ := read()
	pgtest.Eventually(t, 2*time.Minute, func() error {
		if seq, _, _ := read(); seq == first {
			return fmt.Errorf("seq is %d still", seq)
		}
		return nil
	})
	began, _, since := read()
	pgtest.Eventually(t, 2*time.Minute, func() error {
		if seq, _, _ := read(); seq < began+1 {
			return fmt.Errorf("seq is %d still", seq)
		}
		return nil
	})
	seq, opNow, now := read()
	if elapsed := now - since; seq-began > elapsed/10+1 {
		t.Errorf("%d checkpoints in %d idle seconds", seq-began, elapsed)
	}
	if opNow != op {
		t.Errorf("the op counter moved from %d to %d", op, opNow)
	}
	execSQL(t, a.sourceURI, `UPDATE notes SET body = 'two'`)
	d.shows(`SELECT id, body FROM notes`, map[string]string{"1": "two"})
}

// TestSA10_RowTooLarge: a row of 16 MiB is not synced and is listed, whether it is
// copied or streamed; its neighbours are fine, and an update to less cures it.
func TestSA10_RowTooLarge(t *testing.T) {
	t.Parallel()
	const large = `repeat('0123456789abcdef', 1 << 20)`
	a := newApp(t, `CREATE TABLE notes (id text PRIMARY KEY, body text, owner text);
		INSERT INTO notes VALUES ('1', 'before', 'alice'), ('2', `+large+`, 'alice'), ('3', 'after', 'alice')`, notesRules, "")
	d := newAppDevice(a, "alice", "alice", clientsdk.Table{Name: "notes", Columns: []clientsdk.Column{{Name: "body"}}})
	d.connect()
	shows := func(want map[string]string) {
		t.Helper()
		d.shows(`SELECT id, body FROM notes`, want)
	}
	listed := func(keys ...string) {
		t.Helper()
		pgtest.Eventually(t, waitTimeout, func() error {
			got, err := tryQuery[[]string](a.sidecarURI, `SELECT coalesce(array_agg(row_key || ' ' || message ORDER BY row_key), '{}') FROM millrace.row_errors`)
			if err != nil {
				return err
			}
			ok := len(got) == len(keys)
			for i := 0; ok && i < len(keys); i++ {
				ok = strings.HasPrefix(got[i], keys[i]+" ") && strings.Contains(got[i], "15728640")
			}
			if !ok {
				return fmt.Errorf("listed are %q, want those of %q", got, keys)
			}
			return nil
		})
	}
	shows(map[string]string{"1": "before", "3": "after"})
	listed("2")
	// One that was fine, and one that is new, in a transaction with others.
	execSQL(t, a.sourceURI, `UPDATE notes SET body = `+large+` WHERE id = '1'; INSERT INTO notes VALUES ('4', `+large+`, 'alice'), ('5', 'beside', 'alice')`)
	shows(map[string]string{"3": "after", "5": "beside"})
	listed("1", "2", "4")
	execSQL(t, a.sourceURI, `UPDATE notes SET body = 'small ' || id WHERE id IN ('1', '2'); DELETE FROM notes WHERE id = '4'`)
	shows(map[string]string{"1": "small 1", "2": "small 2", "3": "after", "5": "beside"})
	listed()
	if wrong := query[int](t, a.sidecarURI, `SELECT count(*) FROM millrace.buckets b CROSS JOIN LATERAL millrace.verify_bucket(b.bucket) v WHERE NOT v.ok`); wrong != 0 {
		t.Error("a bucket does not add up")
	}
}
