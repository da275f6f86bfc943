package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/catalog/session"
)

// oldTransaction is how old a transaction may be before it is worth a word: it
// holds back WAL and the creation of slots.
const oldTransaction = 5 * time.Minute

// examineSource looks at one source: what the decoder checks before it streams,
// and what goes wrong later.
func examineSource(ctx context.Context, s *Source) []Finding {
	r := &report{about: "source " + s.Name}
	server, err := catalog.Connect(ctx, catalog.Config{URI: s.URI, Slot: s.Slot, Publication: s.Publication, Failover: s.Failover, OurSlots: s.Slots, MaxConnections: 2})
	if err != nil {
		r.unreachable(err, "check address, role, password and pg_hba.conf of the source")
		return r.list
	}
	defer server.Close()
	conn, err := connect(ctx, s.URI)
	if err != nil {
		r.unreachable(err, "")
		return r.list
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	who, err := detect(ctx, conn)
	if err != nil {
		r.unreachable(err, "")
		return r.list
	}
	uses := s.Uses
	if uses == nil {
		uses = func(string, string) bool { return false }
	}
	found, _, err := server.Preflight(ctx, uses, s.Named)
	if err != nil {
		r.unreachable(err, "")
		return r.list
	}
	for _, f := range found {
		r.preflight(f, who)
	}
	if err := r.slot(ctx, server, s.Slot); err != nil {
		r.unreachable(err, "")
	}
	if err := r.settings(ctx, conn, who); err != nil {
		r.unreachable(err, "")
	}
	if err := r.transactions(ctx, conn); err != nil {
		r.unreachable(err, "")
	}
	r.clock(ctx, conn)
	by := ""
	if who != selfHosted {
		by = " at " + string(who)
	}
	version, _ := server.Setting(ctx, "server_version") // for people
	return r.done("PostgreSQL " + version + by + ": ready")
}

// preflight takes over a finding of the decoder's, with the provider's cure.
func (r *report) preflight(f catalog.Finding, who provider) {
	level := Warn
	if f.Level != catalog.Warn {
		level = Fatal
	}
	cure := f.Repair
	if own, ok := cures[who][f.Code]; ok {
		cure = strings.NewReplacer("%role%", session.Ident(f.Object), "%object%", f.Object).Replace(own)
	}
	if f.Code == "MR1010" { // the decoder creates it if its role may
		level, cure = Warn, "the decoder creates it if its role owns the tables and may create in the database; else: "+cure
	}
	if f.Code == "MR1014" {
		level, cure = Warn, "the decoder adds it if its role owns the table; else: "+cure
	}
	r.add(level, f.Code, f.Object, f.Message, cure)
}

// slot tells of a slot that is in danger or lost.
func (r *report) slot(ctx context.Context, server *catalog.Source, name string) error {
	slot, err := server.InspectSlot(ctx, name)
	if err != nil || slot == nil {
		return err
	}
	object := "slot " + name
	switch {
	case slot.Lost:
		r.add(Warn, "MR1030", object, "it is lost ("+slot.Why()+"): the decoder copies all tables again with a new one", "raise max_slot_wal_keep_size before it does, if WAL was removed")
	case slot.Status == "unreserved":
		r.add(Fatal, "MR1031", object, "the next checkpoint of the source may remove WAL that it needs", "start the decoder now, or: ALTER SYSTEM SET max_slot_wal_keep_size = …; SELECT pg_reload_conf();")
	case slot.SafeWAL >= 0 && slot.SafeWAL <= slot.Retained:
		r.add(Warn, "MR1031", object, fmt.Sprintf("it holds back %d MiB of WAL, and only %d MiB more may be written", slot.Retained>>20, slot.SafeWAL>>20),
			"start the decoder, see what it waits for (millrace status), or raise max_slot_wal_keep_size")
	}
	if slot.Plugin != "pgoutput" {
		r.add(Fatal, "MR1030", object, "it decodes with "+slot.Plugin+", not pgoutput: it is not ours", "choose another name (sources.slot)")
	}
	return nil
}

// settings tells of settings that lose slots, or time.
func (r *report) settings(ctx context.Context, conn *pgx.Conn, who provider) error {
	get := func(name string) (string, error) {
		var value *string
		err := conn.QueryRow(ctx, "SELECT current_setting($1, true)", name).Scan(&value)
		if value == nil {
			return "", err
		}
		return *value, err
	}
	keep, err := get("max_slot_wal_keep_size")
	if err != nil {
		return err
	}
	if keep == "-1" {
		cure := "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf(); with a size the disk has room for, or decoder.slot_max_lag"
		if own, ok := cures[who]["max_slot_wal_keep_size"]; ok {
			cure = own
		}
		r.add(Warn, "MR1031", "max_slot_wal_keep_size", "nothing limits the WAL that a slot holds back: a decoder that is down fills the source's disk", cure)
	}
	timeout, err := get("wal_sender_timeout")
	if err != nil {
		return err
	}
	if timeout == "0" {
		r.add(Warn, "", "wal_sender_timeout", "a broken connection is never noticed: the slot stays in use", "ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();")
	}
	idle, err := get("idle_replication_slot_timeout")
	if err != nil {
		return err
	}
	if idle != "" && idle != "0" {
		r.add(Warn, "MR1030", "idle_replication_slot_timeout", "a decoder that is down for "+idle+" loses its slot, and copies all tables again", "ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf(); or longer than any maintenance")
	}
	standbys, err := get("synchronous_standby_names")
	if err != nil {
		return err
	}
	if standbys != "" {
		var there int
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')").Scan(&there); err != nil {
			return err
		}
		if there == 0 {
			r.add(Warn, "", "synchronous_standby_names", "it names standbys and none of them is connected (as far as this role may see): commits do not return, and copies wait until they are visible",
				"bring the standby back, or: ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();")
		}
	}
	var backward int
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_replication WHERE backend_xmin IS NOT NULL AND age(backend_xmin) > 50000000`).Scan(&backward)
	if err != nil {
		return err
	}
	if backward > 0 {
		r.add(Warn, "", "hot_standby_feedback", "a standby or a slot keeps dead rows of more than 50 million transactions from being removed",
			"end the standby's oldest query (pg_stat_activity there), or set hot_standby_feedback = off on it")
	}
	return nil
}

// transactions names those that hold back the slot.
func (r *report) transactions(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, `
		SELECT pid, coalesce(usename::text, '?'), coalesce(nullif(application_name, ''), 'no application name'), coalesce(state, 'unknown state'),
		       extract(epoch FROM clock_timestamp() - xact_start)::bigint
		FROM pg_stat_activity
		WHERE (backend_xid IS NOT NULL OR state LIKE 'idle in transaction%') AND xact_start < clock_timestamp() - make_interval(secs => $1)
		  AND pid <> pg_backend_pid() AND backend_type = 'client backend'
		ORDER BY xact_start LIMIT 5`, oldTransaction.Seconds())
	if err != nil {
		return err
	}
	var pid int32
	var user, application, state string
	var age int64
	if _, err := pgx.ForEachRow(rows, []any{&pid, &user, &application, &state, &age}, func() error {
		r.add(Warn, "", fmt.Sprintf("pid %d", pid), fmt.Sprintf("%s (%s) is %s for %v: it holds back WAL, and a new slot or copy waits for it", user, application, state, time.Duration(age)*time.Second),
			fmt.Sprintf("SELECT pg_terminate_backend(%d); and for the future: ALTER DATABASE … SET idle_in_transaction_session_timeout = '5min';", pid))
		return nil
	}); err != nil {
		return err
	}
	rows, err = conn.Query(ctx, `SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::bigint FROM pg_prepared_xacts
		WHERE prepared < clock_timestamp() - make_interval(secs => $1) ORDER BY prepared LIMIT 5`, oldTransaction.Seconds())
	if err != nil {
		return err
	}
	var gid string
	_, err = pgx.ForEachRow(rows, []any{&gid, &age}, func() error {
		r.add(Warn, "", "prepared transaction "+gid, fmt.Sprintf("it is open for %v: it holds back WAL, and a new slot or copy waits for it", time.Duration(age)*time.Second),
			"COMMIT PREPARED "+session.Literal(gid)+"; or ROLLBACK PREPARED "+session.Literal(gid)+";")
		return nil
	})
	return err
}

// skewAllowed is how far clocks may be apart before lags and tokens are wrong.
const skewAllowed = 5 * time.Second

// clock compares the server's clock with ours, allowing for the way there.
func (r *report) clock(ctx context.Context, conn *pgx.Conn) {
	asked := time.Now()
	var there time.Time
	if err := conn.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&there); err != nil {
		if !errors.Is(err, context.Canceled) {
			r.unreachable(err, "")
		}
		return
	}
	r.skew(there, asked, time.Now())
}

// skew tells of a clock that was certainly wrong between asking and answer.
func (r *report) skew(there, asked, answered time.Time) {
	off := time.Duration(0)
	switch {
	case there.Before(asked):
		off = asked.Sub(there)
	case there.After(answered):
		off = there.Sub(answered)
	}
	if off > skewAllowed {
		r.add(Warn, "", "clock", fmt.Sprintf("it differs from this machine's by %v: lags, and the times of tokens, are wrong by as much", off.Round(time.Second)),
			"run NTP (chrony, systemd-timesyncd) on both")
	}
}
