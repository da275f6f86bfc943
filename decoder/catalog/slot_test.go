package catalog_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/internal/pgtest"
)

func TestSlotLifecycle(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	s := d.source()
	ctx := t.Context()
	if slot, err := s.InspectSlot(ctx, d.name); err != nil || slot != nil {
		t.Fatalf("before: %+v %v", slot, err)
	}
	created, err := s.CreateSlot(ctx, d.name, nil)
	if err != nil || created.ConsistentPoint == 0 || created.Exported.Xmax == 0 {
		t.Fatalf("%+v %v", created, err)
	}
	slot, err := s.InspectSlot(ctx, d.name)
	if err != nil || slot.Confirmed != created.ConsistentPoint || slot.ActivePID != 0 || slot.Lost || slot.Plugin != "pgoutput" ||
		slot.Database != d.name || slot.Retained < 0 || slot.Status != "reserved" {
		t.Errorf("%+v %v", slot, err)
	}
	if _, err := s.CreateSlot(ctx, d.name, nil); !errors.Is(err, catalog.ErrSlotExists) {
		t.Errorf("again: %v", err)
	}
	if slot, err := s.InspectSlot(ctx, d.name); err != nil || slot == nil {
		t.Errorf("the existing slot was touched: %v %v", slot, err)
	}
	for range 2 { // idempotent (P20)
		if err := s.DropSlot(ctx, d.name); err != nil {
			t.Error(err)
		}
	}
}

// The replication grammar has keywords of its own.
func TestSlotNamedLikeAKeyword(t *testing.T) {
	d := newDatabase(t, pgtest.New(t, pgtest.Options{}).Database(t))
	s := d.source()
	if _, err := s.CreateSlot(t.Context(), "logical", nil); err != nil {
		t.Error(err)
	}
	if err := s.DropSlot(t.Context(), "logical"); err != nil {
		t.Error(err)
	}
}

// RA-07, P18: waiting for transactions is told, bounded, and leaves nothing.
func TestRA07_SlotCreationWaits(t *testing.T) {
	d := newDatabase(t, pgtest.New(t, pgtest.Options{}).Database(t), "CREATE TABLE t (id int PRIMARY KEY)")
	s := d.source()
	d.exec("SET application_name = 'nightly job'", "BEGIN", "INSERT INTO t VALUES (1)")
	pid := d.text("SELECT pg_backend_pid()::text")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var mu sync.Mutex
	var told string
	_, err := s.CreateSlot(ctx, d.name, func(text string) { mu.Lock(); told = text; mu.Unlock() })
	var timeout *catalog.SlotTimeoutError
	if !errors.As(err, &timeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for _, text := range []string{told, err.Error()} {
		if !strings.Contains(text, "pid "+pid) || !strings.Contains(text, "nightly job") {
			t.Errorf("told %q", text)
		}
	}
	if slot, err := s.InspectSlot(t.Context(), d.name); err != nil || slot != nil {
		t.Errorf("left: %+v %v", slot, err)
	}
	d.exec("COMMIT")
	created, err := s.CreateSlot(t.Context(), d.name, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The committed transaction is visible in the exported snapshot.
	var xid uint64
	if err := d.conn.QueryRow(t.Context(), "SELECT xmin::text::int8 FROM t").Scan(&xid); err != nil {
		t.Fatal(err)
	}
	if !created.Exported.Visible(xid) {
		t.Errorf("%d is not visible in %v", xid, created.Exported)
	}
}

func TestTakeSlot(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	s := d.source()
	if _, err := s.CreateSlot(t.Context(), d.name, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.TakeSlot(t.Context(), d.name); err != nil {
		t.Errorf("nobody reads it: %v", err)
	}
	read := func(application string) {
		t.Helper()
		uri := pgtest.WithParam(t, pgtest.WithParam(t, d.uri, "replication", "database"), "application_name", application)
		conn, err := pgconn.Connect(t.Context(), uri)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		if err := pglogrepl.StartReplication(t.Context(), conn, d.name, 0, pglogrepl.StartReplicationOptions{
			PluginArgs: []string{"proto_version '1'", "publication_names 'p'"}}); err != nil {
			t.Fatal(err)
		}
	}
	read("millrace") // left behind by a former process
	if slot, err := s.InspectSlot(t.Context(), d.name); err != nil || slot.ActivePID == 0 {
		t.Fatalf("%+v %v", slot, err)
	}
	if err := s.DropSlot(t.Context(), d.name); err == nil {
		t.Error("an active slot was dropped")
	}
	if err := s.TakeSlot(t.Context(), d.name); err != nil {
		t.Error(err)
	}
	if slot, err := s.InspectSlot(t.Context(), d.name); err != nil || slot.ActivePID != 0 {
		t.Errorf("%+v %v", slot, err)
	}
	read("somebody_else")
	var active *catalog.SlotActiveError
	if err := s.TakeSlot(t.Context(), d.name); !errors.As(err, &active) || active.Application != "somebody_else" || active.PID == 0 {
		t.Errorf("got %v", err)
	}
}

func TestCheckHistory(t *testing.T) {
	stored := millrace.Source{SystemID: "7", Timeline: 1, Database: "d", Slot: "s", Publication: "p", PublicationOID: 5, ConsistentPoint: 50, Durable: 100}
	now := catalog.Identity{SystemID: "7", Timeline: 1, Database: "d", PublicationOID: 5, Head: 200}
	slot := catalog.Slot{Name: "s", Confirmed: 100}
	type change func(st *millrace.Source, id *catalog.Identity, sl *catalog.Slot)
	for name, test := range map[string]struct {
		change   change
		switched millrace.LSN
		reason   string
	}{
		"same":                  {func(*millrace.Source, *catalog.Identity, *catalog.Slot) {}, 0, ""},
		"slot behind":           {func(_ *millrace.Source, _ *catalog.Identity, sl *catalog.Slot) { sl.Confirmed = 70 }, 0, ""},
		"nothing durable yet":   {func(st *millrace.Source, _ *catalog.Identity, sl *catalog.Slot) { st.Durable, sl.Confirmed = 0, 50 }, 0, ""},
		"publication missing":   {func(_ *millrace.Source, id *catalog.Identity, _ *catalog.Slot) { id.PublicationOID = 0 }, 0, ""},
		"failover without loss": {func(_ *millrace.Source, id *catalog.Identity, _ *catalog.Slot) { id.Timeline = 2 }, 150, ""},
		"P70 slot advanced":     {func(_ *millrace.Source, _ *catalog.Identity, sl *catalog.Slot) { sl.Confirmed = 101 }, 0, "was moved to 0/65"},
		"P71 back in time":      {func(_ *millrace.Source, id *catalog.Identity, _ *catalog.Slot) { id.Head = 99 }, 0, "lost the rest"},
		"P72 other cluster":     {func(_ *millrace.Source, id *catalog.Identity, _ *catalog.Slot) { id.SystemID = "8" }, 0, "another cluster"},
		"P72 timeline left":     {func(_ *millrace.Source, id *catalog.Identity, _ *catalog.Slot) { id.Timeline = 2 }, 99, "timeline 1 was left"},
		"P75 publication anew":  {func(_ *millrace.Source, id *catalog.Identity, _ *catalog.Slot) { id.PublicationOID = 6 }, 0, "made again"},
		"P88 beyond the WAL end": {func(st *millrace.Source, id *catalog.Identity, sl *catalog.Slot) {
			st.Durable, id.Head, sl.Confirmed = 200, 200, 201
		}, 0, "was moved"},
		"lost":           {func(_ *millrace.Source, _ *catalog.Identity, sl *catalog.Slot) { sl.Lost, sl.Status = true, "lost" }, 0, "WAL of slot"},
		"other database": {func(_ *millrace.Source, id *catalog.Identity, _ *catalog.Slot) { id.Database = "e" }, 0, "another database"},
	} {
		st, id, sl := stored, now, slot
		test.change(&st, &id, &sl)
		err := catalog.CheckHistory(&st, id, &sl, test.switched)
		var history *catalog.HistoryError
		if test.reason == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.As(err, &history) || !strings.Contains(history.Reason, test.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := catalog.CheckHistory(&stored, now, nil, 0); err == nil || !strings.Contains(err.Error(), "MR1040") {
		t.Errorf("no slot: %v", err)
	}
}

// RA-44: a slot that somebody advanced is noticed.
func TestRA44_AdvancedSlot(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	s := d.source()
	created, err := s.CreateSlot(t.Context(), d.name, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func() error {
		t.Helper()
		id, err := s.Identify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slot, err := s.InspectSlot(t.Context(), d.name)
		if err != nil {
			t.Fatal(err)
		}
		stored := millrace.Source{SystemID: id.SystemID, Timeline: id.Timeline, Database: id.Database, PublicationOID: id.PublicationOID,
			Slot: d.name, ConsistentPoint: created.ConsistentPoint}
		return catalog.CheckHistory(&stored, id, slot, 0)
	}
	if err := check(); err != nil {
		t.Error(err)
	}
	d.exec("INSERT INTO t VALUES (1)", "SELECT pg_replication_slot_advance('"+d.name+"', pg_current_wal_lsn())")
	var history *catalog.HistoryError
	if err := check(); !errors.As(err, &history) {
		t.Errorf("got %v", err)
	}
}
