package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/inspect"
	"github.com/millrace/millrace/internal/pgtest"
)

// verify runs the command on a system.
func (s *system) verify(t *testing.T, args ...string) (v inspect.Verification, out string, code int) {
	t.Helper()
	cfg := configFile(t, string(s.cfg.Sources[0].URI), string(s.cfg.Sidecar.URI), "")
	out, errOut, code := run(t, append([]string{"verify", "-c", cfg, "--json"}, args...)...)
	if out == "" {
		return v, errOut, code
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	return v, out, code
}

func queryRow(t *testing.T, uri, sql string, into ...any) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		return err
	}
	defer conn.Close(t.Context())
	return conn.QueryRow(t.Context(), sql).Scan(into...)
}

// Every kind of difference is found, with the row, the op and both data; what is
// equal is said to be.
func TestVerify(t *testing.T) {
	s := newSystem(t)
	s.start(t)
	sidecar := string(s.cfg.Sidecar.URI)
	v, out, code := s.verify(t)
	if code != exitOK || !v.Equal() || v.Buckets < 10 || v.Rows < 100 || len(v.Findings) > 0 {
		t.Fatalf("nothing differs: exit code %d\n%s", code, out)
	}
	all := v.Buckets
	// alice has 120 to-dos in 12 lists; one is changed, one lost, one invented.
	var bucket, changed, lost string
	scan := func(sql string, into ...any) {
		t.Helper()
		if err := queryRow(t, sidecar, sql, into...); err != nil {
			t.Fatal(err)
		}
	}
	scan(`SELECT b.bucket, r.row_id FROM millrace.buckets b, millrace.bucket_rows(b.bucket) r WHERE r.type = 'todos' ORDER BY b.bucket, r.row_id LIMIT 1`, &bucket, &changed)
	scan(`SELECT max(row_id) FROM millrace.bucket_rows('`+bucket+`') WHERE type = 'todos'`, &lost)
	if changed == lost {
		t.Fatalf("bucket %s has one row only", bucket)
	}
	execSQL(t, sidecar, fmt.Sprintf(`
		UPDATE millrace.ops SET data = '{"id":"%[2]s","title":"not what was written"}' WHERE row_id = '%[2]s' AND bucket = millrace.find_bucket('%[1]s');
		DELETE FROM millrace.ops WHERE row_id = '%[3]s' AND bucket = millrace.find_bucket('%[1]s');
		INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
		SELECT n.id, h.op_id, n.definition, 1, 1, 'todos', 'nobody', '{"id":"nobody"}' FROM millrace.head h, millrace.bucket_names n WHERE n.id = millrace.find_bucket('%[1]s')`, bucket, changed, lost))
	for _, args := range [][]string{nil, {"--bucket", bucket}, {"--bucket", bucket[strings.Index(bucket, "#")+1:]}} {
		v, out, code = s.verify(t, args...)
		if code != exitFinding || v.Equal() || v.Differing != 1 || len(v.Findings) != 3 || len(v.Unsettled) > 0 {
			t.Fatalf("%v: three rows differ: exit code %d\n%s", args, code, out)
		}
		kinds := map[string]inspect.Difference{}
		for _, d := range v.Findings {
			if d.Bucket != bucket || d.Table != "todos" {
				t.Errorf("%v: %+v", args, d)
			}
			kinds[d.Kind] = d
		}
		if d := kinds["different"]; d.Row != changed || d.OpID == 0 || d.Source != "public.todos" || d.Key != changed || !strings.Contains(string(d.Have), "not what was written") || !strings.Contains(string(d.Want), "title") {
			t.Errorf("%v: %+v", args, d)
		}
		if d := kinds["missing"]; d.Row != lost || d.OpID != 0 || d.Have != nil || d.Key != lost || d.Want == nil {
			t.Errorf("%v: %+v", args, d)
		}
		if d := kinds["extra"]; d.Row != "nobody" || d.OpID == 0 || d.Want != nil || d.Source != "" || d.Have == nil {
			t.Errorf("%v: %+v", args, d)
		}
	}
	cfg := configFile(t, string(s.cfg.Sources[0].URI), sidecar, "")
	out, _, code = run(t, "verify", "-c", cfg)
	for _, want := range []string{"1 bucket differs", bucket + "  todos " + lost + "  missing", "the bucket has  {\"id\":\"nobody\"}", "source row      public.todos " + changed} {
		if code != exitFinding || !strings.Contains(out, want) {
			t.Errorf("exit code %d, it does not say %q:\n%s", code, want, out)
		}
	}
	// A sample is always the same, and a part.
	part, out, _ := s.verify(t, "--sample", "30%")
	again, _, _ := s.verify(t, "--sample", "0.3")
	if part.Buckets == 0 || part.Buckets >= all || part.Buckets != again.Buckets {
		t.Errorf("a sample of 30 %%: %d, then %d buckets\n%s", part.Buckets, again.Buckets, out)
	}
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--bucket", "nothing"}, exitFinding, "have no bucket nothing"},
		{[]string{"--sample", "0"}, exitUsage, "more than 0"},
		{[]string{"--sample", "lots"}, exitUsage, "as in 5% or 0.05"},
	} {
		if _, out, code := s.verify(t, tc.args...); code != tc.code || !strings.Contains(out, tc.says) {
			t.Errorf("%v: exit code %d, %s", tc.args, code, out)
		}
	}
}

// Rows that change while they are compared are no findings, and one that is wrong
// is found among them.
func TestVerifyUnderLoad(t *testing.T) {
	s := newSystem(t)
	s.start(t)
	stop := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer close(stop)
	var writes sync.Mutex
	done := 0
	group.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.source.Exec(t.Context(), `UPDATE todos SET title = 'title ' || $1 WHERE id IN (SELECT id FROM todos ORDER BY md5(id::text || $1) LIMIT 5)`, fmt.Sprint(i)); err != nil {
				t.Errorf("write: %v", err)
				return
			}
			writes.Lock()
			done++
			writes.Unlock()
		}
	})
	pgtest.Eventually(t, time.Minute, func() error {
		writes.Lock()
		defer writes.Unlock()
		if done < 20 {
			return fmt.Errorf("%d writes", done)
		}
		return nil
	})
	v, out, code := s.verify(t)
	if code != exitOK || !v.Equal() {
		t.Fatalf("exit code %d\n%s", code, out)
	}
	// The row of a list is not written to.
	var bucket, list string
	if err := queryRow(t, string(s.cfg.Sidecar.URI), `
		SELECT b.bucket, r.row_id FROM millrace.buckets b, millrace.bucket_rows(b.bucket) r WHERE r.type = 'lists' ORDER BY b.bucket LIMIT 1`, &bucket, &list); err != nil {
		t.Fatal(err)
	}
	execSQL(t, string(s.cfg.Sidecar.URI), fmt.Sprintf(`UPDATE millrace.ops SET data = '{"id":"%s","name":"wrong"}' WHERE row_id = '%[1]s' AND type = 'lists'`, list))
	v, out, code = s.verify(t)
	if code != exitFinding || len(v.Findings) != 1 || v.Findings[0].Row != list || v.Findings[0].Kind != "different" {
		t.Errorf("exit code %d\n%s", code, out)
	}
}
