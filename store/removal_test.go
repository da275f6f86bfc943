package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/pgtest"
)

// A request to remove a source reaches the decoder that leads, which may refuse it or
// carry it out. A source that has ended is in no view of those that are followed,
// and its name is free; what it had stays explainable.
func TestRemoveSource(t *testing.T) {
	x := newWorld(t, Options{})
	west := millrace.Source{Name: "west", SystemID: "2", Database: "app", Slot: "millrace_west", Publication: "p"}
	must(t, x.w.SaveSource(t.Context(), &west))
	x.tables[1].Source = west.ID
	must(t, x.w.SaveTable(t.Context(), &x.tables[1]))
	b := `by_owner["a"]`
	x.apply(t, x.upsert(0, "1", x.out(0, b, "lists", "1", "{}")), x.upsert(1, "2", x.out(0, b, "lists", "2", "{}")), x.upsert(1, "3", x.out(0, b, "lists", "3", "{}")))
	x.commit(t, nil)
	rules, err := x.store.Rules(t.Context())
	must(t, err)
	defer rules.Close()

	_, _, err = rules.RequestRemoval(t.Context(), "north")
	if !errors.Is(err, ErrNoSource) || !strings.Contains(err.Error(), "main, west") {
		t.Errorf("a source that is not there: %v", err)
	}
	ask := func() {
		t.Helper()
		id, slot, err := rules.RequestRemoval(t.Context(), "west")
		must(t, err)
		equal(t, []any{west.ID, "millrace_west"}, []any{id, slot})
		watching, stop := context.WithCancel(t.Context())
		told := make(chan struct{}, 1)
		watch := make(chan error, 1)
		go func() {
			watch <- x.w.WatchRules(watching, func() {
				select {
				case told <- struct{}{}:
				default:
				}
			})
		}()
		select {
		case <-told:
		case <-time.After(time.Minute):
			t.Error("the decoder is not told")
		}
		stop()
		<-watch
	}
	state := func() (done, refused bool) {
		t.Helper()
		m, err := rules.Removal(t.Context(), west.ID)
		must(t, err)
		return m.Done, m.Refused
	}
	requested := func() (list []string) {
		t.Helper()
		s, err := x.w.State(t.Context())
		must(t, err)
		for _, src := range s.Sources {
			if src.RemovalRequested {
				list = append(list, src.Name)
			}
		}
		return list
	}

	ask()
	equal(t, []string{"west"}, requested())
	must(t, x.w.KeepSource(t.Context(), west.ID))
	if done, refused := state(); done || !refused || requested() != nil {
		t.Errorf("after a refusal: done %v, refused %v, requested %v", done, refused, requested())
	}

	ask()
	x.apply(t, millrace.Change{Scope: x.scopes[1], Kind: millrace.ChangeTruncate})
	x.commit(t, nil)
	must(t, x.w.RemoveSource(t.Context(), west.ID))
	if done, refused := state(); !done || refused || requested() != nil {
		t.Errorf("after the removal: done %v, refused %v, requested %v", done, refused, requested())
	}
	equal(t, []string{"(1)"}, lines(t, x.conn, `SELECT rows FROM millrace.buckets`))
	equal(t, []string{"(main)"}, lines(t, x.conn, `SELECT source FROM millrace.replication`))
	s, err := x.w.State(t.Context())
	must(t, err)
	for _, table := range s.Tables {
		if table.Source == west.ID {
			t.Errorf("table %s.%s is still known", table.Schema, table.Name)
		}
	}
	if err := x.w.RemoveSource(t.Context(), west.ID); err == nil {
		t.Error("a source was removed twice")
	}
	if _, _, err := rules.RequestRemoval(t.Context(), "west"); !errors.Is(err, ErrNoSource) {
		t.Errorf("a source that is removed: %v", err)
	}
	x.commit(t, nil) // the writer goes on

	again := millrace.Source{Name: "west", SystemID: "2", Database: "app", Slot: "millrace_west", Publication: "p"}
	must(t, x.w.SaveSource(t.Context(), &again))
	if again.ID == west.ID {
		t.Error("a new source of the name is the old one")
	}
	pgtest.Eventually(t, time.Minute, func() error { return x.w.Report(t.Context(), millrace.SourceReport{Source: again.ID, Holds: 7}) })
	equal(t, []string{"(7)"}, lines(t, x.conn, `SELECT holds FROM millrace.source_reports`))
}
