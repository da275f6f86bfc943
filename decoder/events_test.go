package decoder

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

const eventRules = `
bucket_definitions:
  all:
    data:
      - SELECT id FROM t
event_definitions:
  write_checkpoints:
    payloads:
      - SELECT user_id, client_id, n AS checkpoint FROM marks
`

var eventTables = []string{
	"create table t(id int primary key)", "insert into t select generate_series(1, 50)",
	"create table marks(user_id text, client_id text, n bigint, primary key (user_id, client_id))", "insert into marks values ('u', 'c', 50)",
}

// mark is the custom write checkpoint that a device has by the rules in force.
func (f *fixture) mark(event, user string) sinktest.Mark {
	f.t.Helper()
	return f.sidecar.Mark(f.definition("event:"+event), user)
}

// R40: whatever fails, a checkpoint that has write checkpoint N has everything
// that was committed on the source before the row that carried N, in the same
// transaction or in earlier ones.
func TestR40_WriteCheckpointsFollowTheData(t *testing.T) {
	for _, step := range []sinktest.Step{"", sinktest.AfterApply, sinktest.BeforeCommit, sinktest.AfterCommit} {
		t.Run("fails "+string(step), func(t *testing.T) {
			f := newFixture(t, pgtest.Shared(t), eventRules, eventTables...)
			rng := rand.New(rand.NewPCG(1, 2))
			var mu sync.Mutex
			seen, checkpoints := int64(0), 0
			var broken []string
			// The sidecar is as committed when the step is reached, and nothing else
			// is committed before it is over.
			f.sidecar.Fault = func(s sinktest.Step) error {
				mu.Lock()
				defer mu.Unlock()
				if set, ok := f.sidecar.Active(); ok && s == sinktest.AfterCommit {
					var event, bucket millrace.DefinitionID
					for _, d := range set.Definitions {
						switch d.Kind {
						case millrace.EventDefinition:
							event = d.ID
						case millrace.BucketDefinition:
							bucket = d.ID
						}
					}
					n := f.sidecar.Mark(event, "u/c").ID
					if n < seen {
						broken = append(broken, fmt.Sprintf("write checkpoint %d after %d", n, seen))
					}
					if n > seen {
						checkpoints++
					}
					seen = n
					content := f.sidecar.Content(bucket)
					for id := int64(1); id <= n; id++ {
						if _, ok := content[sinktest.Identity{Bucket: "all[]", Type: "t", RowID: fmt.Sprint(id), Subkey: ""}]; !ok {
							broken = append(broken, fmt.Sprintf("write checkpoint %d without row %d", n, id))
							break
						}
					}
				}
				if s == step && rng.IntN(8) == 0 {
					return errCrash
				}
				return nil
			}
			f.start()
			f.survive(func() error {
				if _, ok := f.sidecar.Active(); !ok {
					return errors.New("no rule set is in force")
				}
				return nil
			})
			const last = 250
			writer := make(chan error, 1)
			ended := make(chan struct{})
			defer close(ended)
			// Not all of it in one flush.
			pace := func(i int) {
				for ahead := true; ahead; {
					mu.Lock()
					ahead = seen < int64(i-40)
					mu.Unlock()
					select {
					case <-ended:
						return
					case <-time.After(time.Millisecond):
					}
				}
			}
			go func() { writer <- writeMarks(f.uri, 51, last, pace) }()
			f.survive(func() error {
				mu.Lock()
				defer mu.Unlock()
				if seen < last {
					return fmt.Errorf("at write checkpoint %d", seen)
				}
				return nil
			})
			if err := <-writer; err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if len(broken) > 0 {
				t.Fatalf("%d times, first: %s", len(broken), broken[0])
			}
			if checkpoints < 3 {
				t.Errorf("only %d different write checkpoints were seen: the test shows little", checkpoints)
			}
		})
	}
}

// writeMarks writes rows, each followed by its number in marks: in a transaction
// of its own, or in the same one, before the row or after it.
func writeMarks(uri string, from, to int, pace func(i int)) error {
	ctx := context.Background()
	db, err := pgx.Connect(ctx, uri)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	const row, mark = "insert into t values (%d)", "update marks set n = %d where user_id = 'u' and client_id = 'c'"
	for i := from; i <= to; i++ {
		pace(i)
		row, mark := fmt.Sprintf(row, i), fmt.Sprintf(mark, i)
		list := [][]string{{row, mark}, {row + ";" + mark}, {mark + ";" + row}}[i%3]
		for _, statements := range list { // each is one transaction
			if _, err := db.Exec(ctx, statements, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
	}
	return nil
}

// Only inserted and updated rows set write checkpoints. What is not one is listed
// among the errors, and holds nothing up.
func TestR40_WriteCheckpointRows(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), eventRules, append(eventTables, "insert into marks values ('', 'x', 1), ('v', 'x', -1)")...)
	f.start()
	f.settled()
	if got := f.mark("write_checkpoints", "u/c"); got.ID != 50 {
		t.Fatalf("after the copy: %+v", got)
	}
	if got := f.sidecar.Errors(); len(got) != 2 {
		t.Errorf("errors %v", got)
	}
	f.exec("update marks set n = 20 where user_id = 'u'")
	f.exec("insert into marks values ('u', 'd', 3), ('w', '', 4)")
	f.exec("delete from marks where client_id = 'd'")
	f.exec("update marks set n = 6 where user_id = 'v'")
	f.exec("update marks set client_id = 'y', n = 7 where user_id = 'w'")
	f.settled()
	for user, want := range map[string]int64{"u/c": 50, "u/d": 3, "w": 4, "w/y": 7, "v/x": 6, "/x": 0} {
		if got := f.mark("write_checkpoints", user); got.ID != want {
			t.Errorf("%s has %+v, want %d", user, got, want)
		}
	}
	if got := f.sidecar.Errors(); len(got) != 1 {
		t.Errorf("errors %v", got)
	}
	puts, _ := f.sidecar.Ops()
	f.exec("truncate marks")
	f.exec("insert into marks values ('u', 'c', 51)")
	f.settled()
	if got := f.mark("write_checkpoints", "u/c"); got.ID != 51 || got.Seq == 0 {
		t.Errorf("after TRUNCATE: %+v", got)
	}
	if now, _ := f.sidecar.Ops(); now != puts {
		t.Errorf("%d ops for write checkpoints", now-puts)
	}
}

// A table that is read both by an event and a bucket definition feeds both.
func TestR40_SyncedTableOfAnEvent(t *testing.T) {
	rules := strings.Replace(eventRules, "SELECT id FROM t", "SELECT client_id AS id, n FROM marks", 1)
	f := newFixture(t, pgtest.Shared(t), rules, eventTables...)
	f.start()
	f.settled()
	f.exec("update marks set n = 60; insert into marks values ('u', 'd', 1)")
	f.settled()
	f.contentEquals("bucket:all", `select 'all[]', client_id, '{"id":"'||client_id||'","n":'||n||'}' from marks`)
	if c, d := f.mark("write_checkpoints", "u/c"), f.mark("write_checkpoints", "u/d"); c.ID != 60 || d.ID != 1 {
		t.Errorf("write checkpoints %+v and %+v", c, d)
	}
}

// Events are part of the rules: a deploy adds, changes and removes them; a new
// one is copied from its table before it comes into force, and buckets that stay
// are not touched. A roll-back brings an event back as it went on.
func TestR40_DeployEvents(t *testing.T) {
	plain, _, _ := strings.Cut(eventRules, "event_definitions")
	f := newFixture(t, pgtest.Shared(t), plain, eventTables...)
	f.start()
	f.inForce(1)
	before := f.ids()
	puts, removes := f.sidecar.Ops()

	f.deploy(eventRules)
	f.inForce(2)
	if got := f.mark("write_checkpoints", "u/c"); got.ID != 50 {
		t.Errorf("added: %+v", got)
	}
	changed := strings.Replace(eventRules, "n AS checkpoint", "n * 10 AS checkpoint", 1)
	f.deploy(changed)
	f.inForce(3)
	f.exec("update marks set n = 51")
	f.settled()
	if got := f.mark("write_checkpoints", "u/c"); got.ID != 510 {
		t.Errorf("changed: %+v", got)
	}
	f.deploy(strings.Replace(eventRules, "write_checkpoints", "checkpoint_requests", 1))
	f.inForce(4)
	if got := f.mark("checkpoint_requests", "u/c"); got.ID != 51 {
		t.Errorf("renamed: %+v", got)
	}
	f.exec("update marks set n = 52")
	f.settled()
	if a := f.rollback(2); a.Refused {
		t.Fatalf("answer %+v", a)
	}
	f.inForce(5)
	if got := f.mark("write_checkpoints", "u/c"); got.ID != 52 {
		t.Errorf("rolled back: %+v", got)
	}
	f.deploy(plain)
	f.inForce(6)
	if after := f.ids(); len(after) != 1 || after["bucket:all"] != before["bucket:all"] {
		t.Errorf("definitions %v, before %v", after, before)
	}
	if p, r := f.sidecar.Ops(); p != puts || r != removes {
		t.Errorf("%d rows were put and %d removed for events", p-puts, r-removes)
	}
}

// RA-51, R40: each source's rows set write checkpoints; the greatest number
// counts, wherever it came from.
func TestR40_WriteCheckpointsOfTwoSources(t *testing.T) {
	server := pgtest.Shared(t)
	f := newFixture(t, server, strings.Replace(eventRules, "FROM marks", "FROM marks\n      - SELECT user_id, client_id, checkpoint FROM \"second.public\".numbers", 1), eventTables...)
	uri := server.Database(t)
	second := connect(t, uri)
	exec := func(sql string) {
		t.Helper()
		if _, err := second.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("create table numbers(user_id text primary key, client_id text, checkpoint int); insert into numbers values ('v', 'c', 3)")
	f.config.Sources = append(f.config.Sources, SourceConfig{Name: "second", URI: uri})
	f.start()
	f.settled()
	reaches := func(user string, want int64) {
		t.Helper()
		pgtest.Eventually(t, patience, func() error {
			if err := f.term.failed(); err != nil {
				t.Fatalf("the term ended: %v", err)
			}
			if got := f.mark("write_checkpoints", user); got.ID != want {
				return fmt.Errorf("%s has %+v, want %d", user, got, want)
			}
			return nil
		})
	}
	reaches("v/c", 3)
	reaches("u/c", 50)
	exec("insert into numbers values ('u', 'c', 70)")
	reaches("u/c", 70)
	f.exec("update marks set n = 60; insert into marks values ('v', 'c', 4)")
	reaches("v/c", 4)
	reaches("u/c", 70)
	if got := f.sidecar.Errors(); len(got) > 0 {
		t.Error(errors.New("errors"), got)
	}
}
