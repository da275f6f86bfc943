package decoder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// rowsOn waits until the rows that clients have come from so many sources.
func (s *shards) rowsOn(want map[string]int) {
	s.t.Helper()
	pgtest.Eventually(s.t, 2*patience, func() error {
		if err := s.term.failed(); err != nil && !errors.Is(err, errCrash) {
			s.t.Fatalf("the term ended: %v", err)
		}
		if _, ok := s.sidecar.Active(); !ok {
			return errors.New("no rule set is in force")
		}
		got := map[string]int{}
		for _, list := range s.content() {
			for _, data := range list {
				got[data[strings.Index(data, `"shard":`)+9:len(data)-2]]++
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("rows by source are %v, want %v", got, want)
		}
		return nil
	})
}

// removable are two shards in force, of which the second was taken out of the
// configuration.
func removable(t *testing.T) (s *shards, log *logBuffer) {
	t.Helper()
	s = newShards(t, pgtest.Shared(t), pgtest.Shared(t))
	s.on(0, "insert into t select 'a'||g, g from generate_series(1,20) g")
	s.on(1, "insert into t select 'b'||g, g from generate_series(1,30) g")
	s.start()
	s.converges()
	s.settledBoth()
	_ = s.term.stop()
	s.config.Sources = s.config.Sources[:1]
	log = &logBuffer{}
	s.config.Logger = slog.New(slog.NewTextHandler(log, nil))
	return s, log
}

// A source that is taken out of the configuration keeps its rows, and the log says
// once a term what can be done about it. When somebody asks for its removal they
// go. A source that takes its name later is another one, and is copied.
func TestRemoveSource(t *testing.T) {
	s, log := removable(t)
	taken := s.config
	s.config.Sources = append(taken.Sources[:1:1], SourceConfig{Name: "s1", URI: s.uris[1], Tags: []string{"default"}, Slot: taken.Sources[0].Slot + "_1"})
	s.start()
	s.rowsOn(map[string]int{"s0": 20, "s1": 30})
	// It is not removed while it is configured.
	s.sidecar.RequestRemoval("s1")
	pgtest.Eventually(t, 2*patience, func() error {
		if s.sidecar.Source("s1").RemovalRequested || strings.Count(log.String(), "a source is not removed") != 1 {
			return errors.New("the removal of a configured source is not refused")
		}
		return nil
	})
	s.rowsOn(map[string]int{"s0": 20, "s1": 30})
	_ = s.term.stop()

	s.config = taken
	s.start()
	s.settled0()
	s.rowsOn(map[string]int{"s0": 20, "s1": 30})
	s.deploy(shardRules + "      - SELECT id, v, _source_name AS shard FROM t AS more\n") // another round
	s.active(2)
	if n := strings.Count(log.String(), `millrace source remove s1`); n != 1 {
		t.Errorf("the log tells %d times of a source that is not configured any more", n)
	}
	s.sidecar.RequestRemoval("s1")
	s.rowsOn(map[string]int{"s0": 40}) // the new rules have each row twice
	s.on(0, "insert into t values ('a100', 1)")
	s.rowsOn(map[string]int{"s0": 42})
	_ = s.term.stop()

	s.on(1, "select pg_drop_replication_slot($1)", taken.Sources[0].Slot+"_1")
	s.config.Sources = append(taken.Sources[:1:1], SourceConfig{Name: "s1", URI: s.uris[1], Tags: []string{"default"}, Slot: taken.Sources[0].Slot + "_1"})
	s.start()
	s.rowsOn(map[string]int{"s0": 42, "s1": 60})
	if now := s.sidecar.Source("s1").ID; now != 3 {
		t.Errorf("the source of that name is number %d, want a new one", now)
	}
}

// settled0 waits until everything committed on the first shard is contained.
func (s *shards) settled0() {
	s.t.Helper()
	s.on(0, "insert into t values ('mark', 0)")
	pgtest.Eventually(s.t, 2*patience, func() error {
		if len(s.content()["mark"]) != 1 {
			return errors.New("the mark is not there")
		}
		return nil
	})
	s.on(0, "delete from t where id = 'mark'")
}

// The decoder fails at each step of a removal: the next one carries it out.
func TestRemoveSourceThroughFaults(t *testing.T) {
	for _, step := range []sinktest.Step{sinktest.BeforeApply, sinktest.AfterApply, sinktest.BeforeCommit, sinktest.AfterCommit, sinktest.BeforeSave, sinktest.AfterSave} {
		t.Run(string(step), func(t *testing.T) {
			s, _ := removable(t)
			s.sidecar.RequestRemoval("s1")
			// What is saved before the removal: rule sets to retire.
			s.failAt(step, map[bool]int{true: 2, false: 1}[step == sinktest.BeforeSave || step == sinktest.AfterSave])
			if err := Run(context.Background(), s.config, s.sidecar); !errors.Is(err, errCrash) {
				t.Fatalf("the term ended with %v", err)
			}
			s.sidecar.Fault = nil
			s.start()
			s.rowsOn(map[string]int{"s0": 20})
		})
	}
}
