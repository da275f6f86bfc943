package decoder

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// RA-45 with a standby as it is: made by a base backup, streaming, promoted into a
// timeline of its own when the primary is gone; the decoder is then pointed at it.

// failover is a fixture with a standby.
type failover struct {
	*fixture
	primary, standby *pgtest.Server
	replica          *pgx.Conn // to the fixture's database on the standby
}

func newFailover(t *testing.T, primary, standby *pgtest.Server, f *fixture) *failover {
	t.Helper()
	return &failover{fixture: f, primary: primary, standby: standby}
}

// onStandby gives a value of the standby; the fixture's database need not be there
// yet.
func (o *failover) onStandby(sql string, value any, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if o.replica == nil || o.replica.IsClosed() {
		conn, err := pgx.Connect(ctx, o.standby.URI(o.db.Config().Database))
		if err != nil {
			return err
		}
		o.replica = conn
		o.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	}
	return o.replica.QueryRow(ctx, sql, args...).Scan(value)
}

// replayed waits until the standby has everything.
func (o *failover) replayed() {
	o.t.Helper()
	head := o.head()
	pgtest.Eventually(o.t, 3*patience, func() error {
		var there bool
		if err := o.onStandby("select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", &there, head.String()); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("the standby has not replayed %v", head)
		}
		return nil
	})
}

// fail kills the primary, promotes the standby and points the decoder at it.
func (o *failover) fail() {
	o.t.Helper()
	_ = o.db.Close(context.Background())
	o.primary.Kill(o.t)
	_ = o.term.stop()
	o.standby.Promote(o.t)
	o.uri = o.standby.URI(o.db.Config().Database)
	o.config.Sources[0].URI = o.uri
	o.reconnect()
}

// A promoted standby of before 17 has no logical slot, and here it lacks the last
// transaction that was read: a new history, without which the row would stay.
func TestRA45_StandbyWithoutTheSlot(t *testing.T) {
	primary := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, primary, wideRules, wideTable("default")...)
	o := newFailover(t, primary, primary.Standby(t, nil), f)
	if f.db.Ping(t.Context()) != nil { // it was stopped to be copied
		f.reconnect()
	}
	f.start()
	f.settled()
	f.exec("update t set v = 5 where id < 10")
	f.settled()
	o.replayed()
	timeline := f.sidecar.Source("main").Timeline
	o.cutOff()
	f.exec("insert into t values (9000, 1, 'lost in the failover')")
	f.settled()
	before, _ := f.sidecar.Active()
	if rows := f.sidecar.Content(f.definition("bucket:all")); rows[sinktest.Identity{Bucket: "all[]", Type: "t", RowID: "9000"}] == "" {
		t.Fatal("the row was not read")
	}
	o.fail()
	f.exec("insert into t values (9001, 1, 'after the failover')")
	f.start()
	f.renewed(before)
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	if now := f.sidecar.Source("main").Timeline; now != timeline+1 {
		t.Errorf("the timeline is %d, was %d", now, timeline)
	}
	if n := f.slots(); n != 1 {
		t.Errorf("%d slots", n)
	}
}

// cutOff makes the standby receive nothing any more.
func (o *failover) cutOff() {
	o.t.Helper()
	ctx := context.Background()
	for _, sql := range []string{"alter system set primary_conninfo = ''", "select pg_reload_conf()"} {
		if _, err := o.replica.Exec(ctx, sql); err != nil {
			o.t.Fatal(err)
		}
	}
	pgtest.Eventually(o.t, 2*patience, func() error {
		var n int
		if err := o.onStandby("select count(*) from pg_stat_wal_receiver", &n); err != nil || n > 0 {
			return fmt.Errorf("the standby still receives (%v)", err)
		}
		return nil
	})
}

// From 17 on the slot is synchronized to the standby: reading goes on there,
// without copying anything.
func TestRA45_SynchronizedSlot(t *testing.T) {
	primary := pgtest.New(t, pgtest.Options{})
	f := newFixture(t, primary, wideRules, wideTable("default")...)
	var version int
	if err := f.db.QueryRow(t.Context(), "select current_setting('server_version_num')::int").Scan(&version); err != nil {
		t.Fatal(err)
	}
	if version < catalog.FailoverVersion {
		t.Skip("slots are synchronized to standbys from PostgreSQL 17 on")
	}
	f.exec("select pg_create_physical_replication_slot('standby')")
	o := newFailover(t, primary, primary.Standby(t, map[string]string{
		"primary_slot_name": "standby", "hot_standby_feedback": "on", "sync_replication_slots": "on",
	}), f)
	if f.db.Ping(t.Context()) != nil { // it was stopped to be copied
		f.reconnect()
	}
	f.exec("alter system set synchronized_standby_slots = 'standby'") // we are never ahead of it
	f.exec("select pg_reload_conf()")
	f.config.Sources[0].Failover = true
	f.start()
	f.settled()
	f.exec("update t set v = 5 where id < 10")
	f.settled()
	before, _ := f.sidecar.Active()
	timeline := f.sidecar.Source("main").Timeline
	pgtest.Eventually(t, 3*patience, func() error {
		f.exec("select pg_log_standby_snapshot()") // which the slot's synchronization waits for
		var ready bool
		err := o.onStandby(`select coalesce(bool_or(synced and not temporary and invalidation_reason is null), false)
			from pg_replication_slots where slot_name = $1`, &ready, f.config.Sources[0].Slot)
		if err != nil {
			return err
		}
		if !ready {
			return fmt.Errorf("the slot is not synchronized")
		}
		return nil
	})
	f.exec("update t set v = 6 where id = 20; delete from t where id = 21")
	f.settled()
	o.replayed()
	o.fail()
	f.exec("update t set v = 7 where id > 50; insert into t values (9001, 1, 'after the failover')")
	f.start()
	f.settled()
	f.contentEquals("bucket:all", wideQuery)
	if set, _ := f.sidecar.Active(); set.ID != before.ID {
		t.Errorf("rule set %d took the place of %d", set.ID, before.ID)
	}
	if now := f.sidecar.Source("main").Timeline; now != timeline+1 {
		t.Errorf("the timeline is %d, was %d", now, timeline)
	}
}
