package decoder

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/internal/pgtest"
)

const twoSourcesRules = `
bucket_definitions:
  all:
    data:
      - SELECT id, v, big FROM t
  second:
    data:
      - SELECT id, v FROM "second.public".t
`

// Two sources in one history: each goes on while the other is away.
func TestTwoSources(t *testing.T) {
	away := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, pgtest.Shared(t), twoSourcesRules, wideTable("default")...)
	uri := away.Database(t)
	second := connect(t, uri)
	exec := func(sql string) {
		t.Helper()
		if _, err := second.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("create table t(id int primary key, v int); insert into t select g, 0 from generate_series(1,30) g")
	f.config.Sources = append(f.config.Sources, SourceConfig{Name: "second", URI: uri})
	f.start()
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	const rows = `select 'second[]', id::text, '{"id":'||id||',"v":'||v||'}' from t`
	compare := func() {
		t.Helper()
		first := f.db
		f.db = second
		pgtest.Eventually(t, patience, func() error { return f.compare("bucket:second", rows) })
		f.db = first
	}
	exec("update t set v = 1 where id < 10; insert into t values (100, 7)")
	f.exec("update t set v = 9")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	compare()

	_ = second.Close(context.Background())
	away.Kill(t)
	f.exec("update t set v = 10; delete from t where id < 5")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	pgtest.Eventually(t, patience, func() error {
		if r := f.sidecar.ReportOf(f.sidecar.Source("second").ID); r.Error == "" {
			return errors.New("the report of the source that is away shows no error")
		}
		return nil
	})
	away.Start(t)
	second = connect(t, uri)
	exec("update t set v = 2")
	compare()
	if err := f.term.failed(); err != nil {
		t.Fatalf("the term ended: %v", err)
	}
}

func connect(t testing.TB, uri string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(context.Background(), uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

// A term leaves no goroutine behind, and ends at once.
func TestTermEndsClean(t *testing.T) {
	f := todoFixture(t)
	f.settledOnce()
	ignore := goleak.IgnoreCurrent()
	f.start()
	f.settled()
	for i := range 50 {
		f.exec("insert into todos values ($1, 'l1', 'x')", fmt.Sprint("x", i))
	}
	began := time.Now()
	if err := f.term.stop(); !errors.Is(err, context.Canceled) {
		t.Fatalf("the term ended with %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	goleak.VerifyNone(t, ignore)
}

// settledOnce runs a term to its end, so that what stays for good is there.
func (f *fixture) settledOnce() {
	f.start()
	f.settled()
	_ = f.term.stop()
}

// Configurations that cannot work are refused at once.
func TestConfigIsChecked(t *testing.T) {
	source := SourceConfig{Name: "main", URI: "postgres://x"}
	for name, c := range map[string]Config{
		"no source":      {Rules: "x"},
		"no rules":       {Sources: []SourceConfig{source}},
		"no URI":         {Rules: "x", Sources: []SourceConfig{{Name: "main"}}},
		"same name":      {Rules: "x", Sources: []SourceConfig{source, source}},
		"bad slot":       {Rules: "x", Sources: []SourceConfig{{Name: "main", URI: "postgres://x", Slot: "Not-a-slot"}}},
		"negative bytes": {Rules: "x", Sources: []SourceConfig{source}, BatchMaxBytes: -1},
	} {
		if err := Run(context.Background(), c, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Rules that do not compile end the term with their place.
func TestRulesAreChecked(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), "bucket_definitions:\n  a:\n    data:\n      - SELECT FROM\n")
	err := Run(context.Background(), f.config, f.sidecar)
	if !errors.Is(err, ErrRules) {
		t.Fatalf("got %v", err)
	}
	t.Log(err)
}
