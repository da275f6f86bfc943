package decoder

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// P65: what counts is one table, one reason, one hour.
func TestTooOften(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	at := func(table millrace.TableID, change string, minutes int) millrace.Recopy {
		return millrace.Recopy{Table: table, Change: change, At: now.Add(-time.Duration(minutes) * time.Minute)}
	}
	for _, c := range []struct {
		name  string
		list  []millrace.Recopy
		until int // minutes from now; 0: it may be copied
	}{
		{"never", nil, 0},
		{"twice", []millrace.Recopy{at(1, "a", 20), at(1, "a", 10)}, 0},
		{"three times", []millrace.Recopy{at(1, "a", 30), at(1, "a", 20), at(1, "a", 10)}, 30},
		{"five times", []millrace.Recopy{at(1, "a", 50), at(1, "a", 40), at(1, "a", 30), at(1, "a", 20), at(1, "a", 10)}, 30},
		{"longer ago", []millrace.Recopy{at(1, "a", 60), at(1, "a", 20), at(1, "a", 10)}, 0},
		{"for other reasons", []millrace.Recopy{at(1, "a", 30), at(1, "b", 20), at(1, "a", 10), at(1, "b", 5)}, 0},
		{"another table", []millrace.Recopy{at(2, "a", 30), at(2, "a", 20), at(2, "a", 10), at(1, "a", 5)}, 0},
		{"for two reasons", []millrace.Recopy{at(1, "b", 50), at(1, "a", 40), at(1, "b", 30), at(1, "a", 20), at(1, "b", 15), at(1, "a", 10)}, 20},
	} {
		until, reason := tooOften(c.list, 1, 3, now)
		want := now.Add(time.Duration(c.until) * time.Minute)
		if c.until == 0 {
			want = time.Time{}
		}
		if !until.Equal(want) || (reason == "") != until.IsZero() {
			t.Errorf("%s: until %v for %q, want %v", c.name, until, reason, want)
		}
	}
}

// P65: a table that is made again over and over is copied three times, then left
// as it is, which is said with its cure. A decoder that starts again knows. After
// the hour it is copied again by itself.
func TestP65_TableCopiedOverAndOver(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, append(wideTable("default"), "create publication millrace for all tables")...)
	f.config.look = 200 * time.Millisecond
	var later atomic.Int64
	f.config.now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	f.start()
	f.settled()
	again := func(round int) {
		t.Helper()
		f.exec("drop table t")
		f.exec("create table t(id int primary key, v int, big text)")
		f.exec(fmt.Sprintf("insert into t select g, %d, repeat('r', 3000) from generate_series(1, 20) g", round))
	}
	for round := range maxRecopies {
		again(round)
		f.follows("bucket:all", wideQuery)
	}
	before := f.sidecar.Content(f.definition("bucket:all"))
	copies := len(f.sidecar.Copies())
	again(100)
	told := func() {
		t.Helper()
		f.reports(codeLoop)
		r := f.sidecar.ReportOf(1)
		for _, part := range []string{"public.t", "the table was made again", "3 times", "it is copied again at", "schema_changes"} {
			if !strings.Contains(r.Error, part) {
				t.Errorf("%q is not in %q", part, r.Error)
			}
		}
	}
	told()
	f.exec("insert into t values (1000, 1, 'not told')")
	f.settled()
	_ = f.term.stop()
	f.start()
	told()
	if now := f.sidecar.Content(f.definition("bucket:all")); len(now) != len(before) {
		t.Errorf("%d rows are served, were %d", len(now), len(before))
	}
	if n := len(f.sidecar.Copies()); n != copies {
		t.Errorf("%d copies, were %d", n, copies)
	}
	events := 0
	for _, e := range f.sidecar.SchemaChanges() {
		if e.Code == codeLoop {
			events++
			if e.Object != "public.t" || e.Cure == "" || !strings.Contains(e.Action, "stay as they were") {
				t.Errorf("noted as %+v", e)
			}
		}
	}
	if events == 0 {
		t.Error("nothing is noted among the changes")
	}
	later.Store(int64(millrace.RecopyWindow))
	f.follows("bucket:all", wideQuery)
	pgtest.Eventually(t, patience, func() error {
		if r := f.sidecar.ReportOf(1); r.ErrorCode != "" {
			return fmt.Errorf("the report still shows %s %q", r.ErrorCode, r.Error)
		}
		return nil
	})
}
