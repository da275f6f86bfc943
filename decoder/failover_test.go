package decoder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
)

// backup copies the files of a stopped server; restore puts them back.
func backup(t *testing.T, server *pgtest.Server) (restore func()) {
	t.Helper()
	dir := server.DataDir()
	kept := filepath.Join(t.TempDir(), "backup")
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run("cp", "-a", dir, kept)
	return func() {
		run("rm", "-rf", dir)
		run("cp", "-a", kept, dir)
	}
}

// promoted makes a stopped server start as a standby, which is then promoted: it
// goes on in a new timeline, with the slots it has.
func promoted(t *testing.T, server *pgtest.Server, uri string) {
	t.Helper()
	signal := filepath.Join(server.DataDir(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(server.DataDir(), "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	chownLike(t, signal, info)
	server.Start(t)
	pgtest.Eventually(t, 2*patience, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, uri)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		var standby bool
		if err := conn.QueryRow(ctx, "select pg_is_in_recovery()").Scan(&standby); err != nil {
			return err
		}
		if standby {
			_, err := conn.Exec(ctx, "select pg_promote(true, 30)")
			return errors.Join(err, errors.New("it is a standby"))
		}
		return nil
	})
}

// RA-45: a standby that is promoted with everything that was read, and with the
// slot, goes on in its timeline without copying anything.
func TestRA45_PromotedWithTheSlot(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := following(t, server)
	before, _ := f.sidecar.Active()
	timeline := f.sidecar.Source("main").Timeline
	f.shutDown(server)
	promoted(t, server, f.uri)
	f.reconnect()
	f.start()
	f.exec("update t set v = 7; delete from t where id = 3")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	if set, _ := f.sidecar.Active(); set.ID != before.ID {
		t.Errorf("rule set %d took the place of %d", set.ID, before.ID)
	}
	if now := f.sidecar.Source("main").Timeline; now != timeline+1 {
		t.Errorf("the timeline is %d, was %d", now, timeline)
	}
}

// RA-45: a standby that is promoted without the last transactions has another
// history: what was read of them must not stay.
func TestRA45_PromotedWithLag(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := following(t, server)
	f.shutDown(server)
	restore := backup(t, server)
	server.Start(t)
	f.reconnect()
	f.start()
	f.exec("insert into t values (9000, 1, 'lost in the failover')")
	f.settled()
	before, _ := f.sidecar.Active()
	f.shutDown(server)
	restore()
	promoted(t, server, f.uri)
	f.reconnect()
	f.exec("create table noise(x text); insert into noise select repeat('x', 1000) from generate_series(1, 5000)") // past what was read
	f.start()
	f.renewed(before)
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// RA-54: a source whose files were put back to an earlier state is before what was
// read of it.
func TestRA54_SourceRestored(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	f := following(t, server)
	f.shutDown(server)
	restore := backup(t, server)
	server.Start(t)
	f.reconnect()
	f.start()
	f.exec("insert into t select 9000 + g, 1, repeat('gone', 100) from generate_series(1, 500) g")
	f.settled()
	before, _ := f.sidecar.Active()
	f.shutDown(server)
	restore()
	server.Start(t)
	f.reconnect()
	f.start()
	f.renewed(before)
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// RA-01: a source that cannot be decoded stops with the setting and nothing is made
// there; once it is repaired everything begins by itself.
func TestRA01_WALLevel(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica"}})
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.config.stopped = 200 * time.Millisecond
	f.start()
	pgtest.Eventually(t, patience, func() error {
		if r := f.sidecar.ReportOf(f.sidecar.Source("main").ID); r.ErrorCode != "MR1003" {
			return fmt.Errorf("the report says %s %q", r.ErrorCode, r.Error)
		}
		return nil
	})
	if n := f.slots(); n != 0 {
		t.Errorf("%d slots", n)
	}
	f.exec("alter system set wal_level = logical")
	_ = f.db.Close(context.Background())
	server.Stop(t)
	conf := filepath.Join(server.DataDir(), "postgresql.auto.conf")
	if text, err := os.ReadFile(conf); err != nil || len(text) == 0 {
		t.Fatalf("the setting is not stored: %v", err)
	}
	server.Start(t)
	f.reconnect()
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}

// RA-02: with all slots in use the source waits, says whose they are, and goes on
// once one is free.
func TestRA02_NoFreeSlot(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Settings: map[string]string{"max_replication_slots": "1"}})
	f := newFixture(t, server, wideRules, wideTable("default")...)
	f.config.stopped = 200 * time.Millisecond
	f.exec("select pg_create_logical_replication_slot('theirs', 'pgoutput')")
	f.start()
	pgtest.Eventually(t, patience, func() error {
		r := f.sidecar.ReportOf(f.sidecar.Source("main").ID)
		if r.ErrorCode != "MR1004" {
			return fmt.Errorf("the report says %s %q", r.ErrorCode, r.Error)
		}
		return nil
	})
	f.exec("select pg_drop_replication_slot('theirs')")
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
}
