package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/decoder/catalog/session"
)

// MinVersion is the oldest server that tells an idle source from a stuck one:
// pgoutput shows logical messages from 14 on.
const MinVersion = 140000

// Preflight checks whether the source can be replicated from and lists the
// tables that the rules match. wanted are the tables the rules name without
// wildcards: they are looked for by name. Findings of tables are also in
// Table.Findings. It changes nothing.
func (s *Source) Preflight(ctx context.Context, match Match, wanted []TableName) ([]Finding, []Table, error) {
	var list []Finding
	id, err := s.Identify(ctx)
	if err != nil {
		return nil, nil, err
	}
	server, err := s.checkServer(ctx, id)
	if err != nil {
		return nil, nil, s.explain("check server", err)
	}
	list = append(list, server...)
	if id.Version < MinVersion {
		return list, nil, nil // the queries below do not run there
	}
	tables, err := s.Tables(ctx, match, nil)
	if err != nil {
		return nil, nil, err
	}
	publication, err := s.checkPublication(ctx, id, tables, wanted)
	if err != nil {
		return nil, nil, s.explain("check publication", err)
	}
	list = append(list, publication...)
	for _, t := range tables {
		for _, f := range t.Findings {
			if id.PublicationOID == 0 && f.Code == "MR1014" {
				continue // said once by MR1010
			}
			list = append(list, f)
		}
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(tables, func(t Table) bool { return t.TableName == w || t.Root == w }) {
			list = append(list, Finding{Code: "MR1013", Level: Warn, Object: w.String(),
				Message: "the rules name the table but it does not exist: it starts to sync when it appears"})
		}
	}
	return list, tables, nil
}

// serverState is what checkServer asks for.
type serverState struct {
	role                                             string
	replication, superuser                           bool
	slots, maxSlots, senders, maxSenders, backendPID int
	ourSlot, ourSender                               bool
	slotNames                                        []string
	orphans                                          []string // slots of ours that nobody configured reads
	standbySlots                                     string   // synchronized_standby_slots
}

// FailoverVersion is the oldest server that synchronizes slots to standbys.
const FailoverVersion = 170000

func (s *Source) checkServer(ctx context.Context, id Identity) ([]Finding, error) {
	var list []Finding
	add := func(code string, level Level, object, message, repair string) {
		list = append(list, Finding{Code: code, Level: level, Object: object, Message: message, Repair: repair})
	}
	if id.Version < MinVersion {
		add("MR1002", Fatal, "server", fmt.Sprintf("PostgreSQL %d is too old: 14 to 18 are supported", id.Version/10000), "upgrade the source")
		return list, nil
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	var st serverState
	err = conn.QueryRow(ctx, `
		SELECT r.rolname::text,
		       r.rolreplication OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'rds_superuser') AND pg_has_role(g.oid, 'USAGE')),
		       r.rolsuper,
		       (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int,
		       (SELECT count(*) FROM pg_stat_replication), current_setting('max_wal_senders')::int,
		       pg_backend_pid(),
		       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1),
		       EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active),
		       (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{}') FROM pg_replication_slots),
		       (SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{}') FROM pg_replication_slots
		        WHERE slot_name LIKE 'millrace\_%' AND slot_type = 'logical' AND NOT active AND NOT temporary AND slot_name <> $1 AND slot_name <> ALL ($2::text[])),
		       coalesce(current_setting('synchronized_standby_slots', true), '')
		FROM pg_roles r WHERE r.rolname = current_user`, s.config.Slot, append([]string{}, s.config.OurSlots...)).
		Scan(&st.role, &st.replication, &st.superuser, &st.slots, &st.maxSlots, &st.senders, &st.maxSenders, &st.backendPID,
			&st.ourSlot, &st.ourSender, &st.slotNames, &st.orphans, &st.standbySlots)
	if err != nil {
		return nil, err
	}
	if id.WALLevel != "logical" {
		add("MR1003", Fatal, "wal_level", fmt.Sprintf("it is %q: changes cannot be decoded", id.WALLevel),
			"ALTER SYSTEM SET wal_level = logical; and restart the server (RDS: rds.logical_replication = 1; Cloud SQL: cloudsql.logical_decoding = on; Neon: a project setting)")
	}
	if !st.ourSlot {
		free := st.maxSlots - st.slots
		used := fmt.Sprintf("%d of %d replication slots are in use: %s", st.slots, st.maxSlots, strings.Join(st.slotNames, ", "))
		repair := fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d; and restart the server, or drop a slot nobody needs", st.maxSlots+2)
		switch {
		case free <= 0:
			add("MR1004", Fatal, "max_replication_slots", used, repair)
		case free < 2:
			add("MR1004", Warn, "max_replication_slots", used, repair)
		}
	}
	if !st.ourSender {
		free := st.maxSenders - st.senders
		used := fmt.Sprintf("%d of %d WAL senders are in use", st.senders, st.maxSenders)
		repair := fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d; and restart the server", st.maxSenders+2)
		switch {
		case free <= 0:
			add("MR1004", Fatal, "max_wal_senders", used, repair)
		case free < 2:
			add("MR1004", Warn, "max_wal_senders", used, repair)
		}
	}
	if !st.replication && !st.superuser {
		add("MR1005", Fatal, st.role, "the role may not replicate", fmt.Sprintf("ALTER ROLE %s REPLICATION;", session.Ident(st.role)))
	}
	for _, name := range st.orphans {
		add("MR1032", Warn, "slot "+name, "nobody reads it, and it holds back WAL until the source's disk is full",
			"if no other Millrace uses it: SELECT pg_drop_replication_slot("+session.Literal(name)+");")
	}
	if s.config.Failover {
		switch {
		case id.Version < FailoverVersion:
			add("MR1033", Warn, "slot "+s.config.Slot, fmt.Sprintf("PostgreSQL %d does not synchronize slots to standbys: after a failover everything is copied again", id.Version/10000),
				"take sources.failover out, or upgrade the source to 17")
		case st.standbySlots == "":
			add("MR1033", Warn, "synchronized_standby_slots", "it is empty: what is read may be ahead of the standby that is promoted, and then everything is copied again",
				"ALTER SYSTEM SET synchronized_standby_slots = '<physical slot of the standby>'; SELECT pg_reload_conf(); and on the standby: sync_replication_slots = on, hot_standby_feedback = on, primary_slot_name, and dbname in primary_conninfo")
		}
	}
	if id.InRecovery {
		add("MR1006", Fatal, "server", "it is a standby", "use the endpoint of the primary")
	}
	if told := int(conn.Conn().PgConn().PID()); told != st.backendPID {
		add("MR1006", Warn, "connection", "it seems to go through a pooler, which replication cannot", "use the direct endpoint of the primary")
	}
	return list, nil
}

func (s *Source) checkPublication(ctx context.Context, id Identity, tables []Table, wanted []TableName) ([]Finding, error) {
	name := s.config.Publication
	if id.PublicationOID == 0 {
		var need []TableName
		for _, t := range tables {
			if t.unsupported() == "" {
				need = append(need, t.TableName)
			}
		}
		if len(tables) == 0 {
			need = wanted
		}
		return []Finding{{Code: "MR1010", Level: Fatal, Object: "publication " + name, Message: "it does not exist",
			Repair: createPublication(name, need)}}, nil
	}
	var insert, update, del, truncate, viaRoot bool
	if err := s.pool.QueryRow(ctx, "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1", name).
		Scan(&insert, &update, &del, &truncate, &viaRoot); err != nil {
		return nil, err
	}
	var list []Finding
	alter := "ALTER PUBLICATION " + session.Ident(name) + " SET "
	if !insert || !update || !del || !truncate {
		list = append(list, Finding{Code: "MR1011", Level: Fatal, Object: "publication " + name,
			Message: "it does not publish all of insert, update, delete and truncate",
			Repair:  alter + "(publish = 'insert, update, delete, truncate');"})
	}
	if viaRoot {
		list = append(list, Finding{Code: "MR1012", Level: Fatal, Object: "publication " + name,
			Message: "it publishes partitions under their root, where a TRUNCATE of one partition is not told",
			Repair:  alter + "(publish_via_partition_root = false);"})
	}
	return list, nil
}

// Worst gives the first finding that stops the whole source, or nil.
func Worst(list []Finding) error {
	for _, f := range list {
		if f.Level == Fatal {
			return f
		}
	}
	return nil
}
