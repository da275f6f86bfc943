package decoder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// The fuse drops a slot that holds back too much, also while it is read; a new
// history is built by itself.
func TestFuseDropsALaggingSlot(t *testing.T) {
	f := following(t, pgtest.Shared(t))
	before, _ := f.sidecar.Active()
	_ = f.term.stop() // the slot is not moved meanwhile
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	fuse := &Fuse{Sources: f.config.Sources, MaxLag: 8 << 20, Logger: testLog(t), every: 50 * time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- fuse.Run(ctx) }()
	f.exec("create table noise(x text)")
	if f.slots() != 1 {
		t.Fatal("the slot went before there was a reason")
	}
	f.exec("insert into noise select repeat('x', 1000) from generate_series(1, 20000)")
	pgtest.Eventually(t, patience, func() error {
		if n := f.slots(); n != 0 {
			return fmt.Errorf("%d slots", n)
		}
		return nil
	})
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the fuse ended with %v", err)
	}
	f.exec("delete from t where id = 5")
	f.start()
	f.renewed(before)
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// Slots that look like ours and that nobody reads are named, with the SQL that
// drops them; those of other configured sources are not.
func TestOrphanSlotsAreNamed(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.exec("select pg_create_logical_replication_slot('millrace_old', 'pgoutput')")
	f.exec("select pg_create_logical_replication_slot('theirs', 'pgoutput')")
	f.start()
	f.settled()
	pgtest.Eventually(t, patience, func() error {
		all := strings.Join(f.sidecar.ReportOf(f.sidecar.Source("main").ID).Findings, "\n")
		if !strings.Contains(all, "MR1032") || !strings.Contains(all, "pg_drop_replication_slot('millrace_old')") || strings.Contains(all, "theirs") {
			return fmt.Errorf("findings %q", all)
		}
		return nil
	})
}

// RA-04, RA-05: a publication that disappears or publishes less while streaming
// is noticed, on servers that say nothing about it; after repair the content is
// right.
func TestRA05_PublicationChangesWhileStreaming(t *testing.T) {
	f := newFixture(t, pgtest.Shared(t), wideRules, wideTable("default")...)
	f.config.stopped = 100 * time.Millisecond
	f.start()
	f.settled()
	before, _ := f.sidecar.Active()
	f.exec("alter publication millrace set (publish = 'insert')")
	pgtest.Eventually(t, patience, func() error {
		if r := f.sidecar.ReportOf(f.sidecar.Source("main").ID); r.ErrorCode != "MR1011" {
			return fmt.Errorf("the report says %s %q", r.ErrorCode, r.Error)
		}
		return nil
	})
	f.exec("update t set v = v + 1") // lost to the stream
	f.exec("alter publication millrace set (publish = 'insert, update, delete, truncate')")
	f.renewed(before)
	f.settled()
	f.contentEquals("bucket:all", wideQuery)

	before, _ = f.sidecar.Active()
	f.exec("drop publication millrace")
	f.renewed(before) // it is made again
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// The forecast has what it needs: what the slot holds back and what is left.
func TestSlotReport(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.exec("alter system set max_slot_wal_keep_size = '1GB'")
	f.exec("select pg_reload_conf()")
	f.start()
	f.settled()
	pgtest.Eventually(t, patience, func() error {
		r := f.sidecar.ReportOf(f.sidecar.Source("main").ID)
		if r.SafeWAL <= 0 || r.SafeWAL > 2<<30 || r.Retained < 0 || r.Restart == 0 || r.Restart > r.Head {
			return fmt.Errorf("report %+v", r)
		}
		return nil
	})
}
