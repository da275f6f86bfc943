package pgoutput_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// realMessages makes a server send every kind of message and shape of tuple.
func realMessages(t *testing.T) [][]byte {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	slot := "pgoutput_real"
	for _, sql := range []string{
		`CREATE TYPE mood AS ENUM ('calm', 'wild')`,
		`CREATE DOMAIN qty AS int`,
		`CREATE TABLE d (id int PRIMARY KEY, v text, big text, m mood, q qty, b bytea)`,
		`ALTER TABLE d ALTER big SET STORAGE EXTERNAL`,
		`CREATE TABLE f (id int, v text)`, `ALTER TABLE f REPLICA IDENTITY FULL`,
		`CREATE TABLE swapped (b int, a int, c text, PRIMARY KEY (a, b))`,
		`CREATE TABLE none ()`,
		`CREATE PUBLICATION p FOR ALL TABLES`,
		`SELECT pg_create_logical_replication_slot('` + slot + `', 'pgoutput')`,
		`INSERT INTO d VALUES (1, 'a', repeat('x', 5000), 'calm', 7, '\x00ff'), (2, NULL, NULL, NULL, NULL, NULL), (3, '', 'ünï', 'wild', -1, '\x')`,
		`UPDATE d SET v = 'b' WHERE id = 1`,          // unchanged long value
		`UPDATE d SET id = 10 WHERE id = 1`,          // key change
		`DELETE FROM d WHERE id = 10`,                // by key
		`INSERT INTO f VALUES (1, 'one'), (2, NULL)`, // no key
		`UPDATE f SET id = 3 - id`,
		`DELETE FROM f WHERE id = 1`,
		`INSERT INTO swapped VALUES (2, 1, 'x')`,
		`UPDATE swapped SET a = 5`,
		`INSERT INTO none DEFAULT VALUES`,
		`TRUNCATE d, f RESTART IDENTITY CASCADE`,
		`SELECT pg_logical_emit_message(true, 'millrace', 'in a transaction')`,
		`SELECT pg_logical_emit_message(false, 'other', convert_to(E'with\nlines', 'UTF8'))`,
		`SELECT pg_replication_origin_create('` + slot + `')`,
		`SELECT pg_replication_origin_session_setup('` + slot + `')`,
		`BEGIN; SELECT pg_replication_origin_xact_setup('0/1234', now()); INSERT INTO f VALUES (9, 'from afar'); COMMIT`,
		`SELECT pg_replication_origin_session_reset()`,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	rows, err := conn.Query(ctx, `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', 'p', 'messages', 'true')`, slot)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "SELECT pg_replication_origin_drop('"+slot+"')"); err != nil {
		t.Error(err)
	}
	return messages
}

// Real messages mean to us what they mean to pglogrepl.
func TestAgreesWithPglogrepl(t *testing.T) {
	seen := map[pgoutput.Kind]int{}
	shapes := map[string]bool{}
	var (
		ins pgoutput.Insert
		up  pgoutput.Update
		del pgoutput.Delete
	)
	for _, msg := range realMessages(t) {
		kind, err := pgoutput.KindOf(msg)
		if err != nil {
			t.Fatal(err)
		}
		seen[kind]++
		if kind == pgoutput.KindInsert && len(msg) == 8 {
			// A row without columns, which pglogrepl does not read.
			if err := pgoutput.ParseInsert(msg, &ins); err != nil || ins.New.Len() != 0 {
				t.Errorf("row without columns: %v", err)
			}
			shapes["no columns"] = true
			continue
		}
		theirs, err := pglogrepl.Parse(msg)
		if err != nil {
			t.Fatalf("pglogrepl: %v", err)
		}
		var ours, want string
		switch kind {
		case pgoutput.KindBegin:
			m, parsed := pgoutput.ParseBegin(msg)
			x := theirs.(*pglogrepl.BeginMessage)
			err, ours, want = parsed, fmt.Sprint(m.FinalLSN, m.CommitTime.UnixMicro(), m.XID), fmt.Sprint(x.FinalLSN, x.CommitTime.UnixMicro(), x.Xid)
		case pgoutput.KindCommit:
			m, parsed := pgoutput.ParseCommit(msg)
			x := theirs.(*pglogrepl.CommitMessage)
			err, ours, want = parsed, fmt.Sprint(m.CommitLSN, m.EndLSN, m.CommitTime.UnixMicro()), fmt.Sprint(x.CommitLSN, x.TransactionEndLSN, x.CommitTime.UnixMicro())
		case pgoutput.KindOrigin:
			m, parsed := pgoutput.ParseOrigin(msg)
			x := theirs.(*pglogrepl.OriginMessage)
			err, ours, want = parsed, fmt.Sprint(m.CommitLSN, m.Name), fmt.Sprint(x.CommitLSN, x.Name)
		case pgoutput.KindType:
			m, parsed := pgoutput.ParseType(msg)
			x := theirs.(*pglogrepl.TypeMessage)
			err, ours, want = parsed, fmt.Sprint(m.OID, m.Schema, m.Name), fmt.Sprint(x.DataType, namespace(x.Namespace), x.Name)
		case pgoutput.KindRelation:
			m, parsed := pgoutput.ParseRelation(msg)
			x := theirs.(*pglogrepl.RelationMessage)
			err = parsed
			if err == nil {
				ours, want = fmt.Sprint(m.OID, m.Schema, m.Name, m.Identity), fmt.Sprint(x.RelationID, namespace(x.Namespace), x.RelationName, x.ReplicaIdentity)
				for _, c := range m.Columns {
					ours += fmt.Sprint(c.Key, c.Name, c.TypeOID, c.TypMod)
				}
				for _, c := range x.Columns {
					want += fmt.Sprint(c.Flags == 1, c.Name, c.DataType, c.TypeModifier)
				}
			}
		case pgoutput.KindInsert:
			err = pgoutput.ParseInsert(msg, &ins)
			x := theirs.(*pglogrepl.InsertMessage)
			ours, want = fmt.Sprint(ins.Relation, show(&ins.New)), fmt.Sprint(x.RelationID, showTheirs(x.Tuple))
		case pgoutput.KindUpdate:
			err = pgoutput.ParseUpdate(msg, &up)
			x := theirs.(*pglogrepl.UpdateMessage)
			ours = fmt.Sprint(up.Relation, up.OldKind, show(&up.Old), show(&up.New))
			want = fmt.Sprint(x.RelationID, x.OldTupleType, showTheirs(x.OldTuple), showTheirs(x.NewTuple))
			shapes["update "+string(rune(up.OldKind))] = true
			for i := range up.New.Len() {
				shapes["value "+string(rune(up.New.Kind(i)))] = true
			}
		case pgoutput.KindDelete:
			err = pgoutput.ParseDelete(msg, &del)
			x := theirs.(*pglogrepl.DeleteMessage)
			ours, want = fmt.Sprint(del.Relation, del.OldKind, show(&del.Old)), fmt.Sprint(x.RelationID, x.OldTupleType, showTheirs(x.OldTuple))
			shapes["delete "+string(rune(del.OldKind))] = true
		case pgoutput.KindTruncate:
			m, parsed := pgoutput.ParseTruncate(msg)
			x := theirs.(*pglogrepl.TruncateMessage)
			err = parsed
			ours = fmt.Sprint(m.Cascade, m.RestartIdentity, m.Relations)
			want = fmt.Sprint(x.Option&1 != 0, x.Option&2 != 0, x.RelationIDs)
		case pgoutput.KindMessage:
			m, parsed := pgoutput.ParseMessage(msg)
			x := theirs.(*pglogrepl.LogicalDecodingMessage)
			err = parsed
			ours, want = fmt.Sprint(m.Transactional, m.LSN, m.Prefix, m.Content), fmt.Sprint(x.Transactional, x.LSN, x.Prefix, x.Content)
		}
		if err != nil || ours != want {
			t.Errorf("%v: got %s, want %s (%v)", kind, ours, want, err)
		}
	}
	for _, k := range "BCORYIUDTM" {
		if seen[pgoutput.Kind(k)] == 0 {
			t.Errorf("no %v message was sent", pgoutput.Kind(k))
		}
	}
	for _, s := range []string{"update \x00", "update K", "update O", "delete K", "delete O", "value u", "value n", "value t", "no columns"} {
		if !shapes[s] {
			t.Errorf("no %q among %v", s, slices.Sorted(maps.Keys(shapes)))
		}
	}
}

func namespace(s string) string {
	if s == "" {
		return "pg_catalog"
	}
	return s
}

func show(t *pgoutput.Tuple) string {
	var b strings.Builder
	for i := range t.Len() {
		fmt.Fprintf(&b, "%c%q ", t.Kind(i), t.Bytes(i))
	}
	return b.String()
}

func showTheirs(t *pglogrepl.TupleData) string {
	if t == nil {
		return ""
	}
	var b strings.Builder
	for _, c := range t.Columns {
		fmt.Fprintf(&b, "%c%q ", c.DataType, c.Data)
	}
	return b.String()
}
