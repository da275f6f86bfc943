package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace"
)

// fenced runs f in a transaction that commits only if the fence is still this
// Writer's: that is checked last, under a lock that a take-over waits for.
func (w *Writer) fenced(ctx context.Context, doing string, f func(pgx.Tx) error) error {
	if err := w.open(); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if w.flush.begun || w.flush.op > w.head.OpID {
		return fmt.Errorf("%s: a flush is open", doing)
	}
	err := pgx.BeginFunc(ctx, w.conn, func(tx pgx.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		var mine bool
		err := tx.QueryRow(ctx, `SELECT true FROM millrace.head WHERE fence = $1 FOR NO KEY UPDATE`, w.fence).Scan(&mine)
		if errors.Is(err, pgx.ErrNoRows) {
			w.lose()
			return fmt.Errorf("another decoder took fence %d: %w", w.fence, ErrLeadershipLost)
		}
		return err
	})
	if err != nil {
		return w.failure(doing, err)
	}
	return nil
}

// SaveSource stores a source by name, giving it an ID if it has none. The
// durable position starts at s.Durable and never goes back, but for a source
// that is another database now: positions of the old one mean nothing there.
func (w *Writer) SaveSource(ctx context.Context, s *millrace.Source) error {
	saved := *s
	var durable string
	err := w.fenced(ctx, fmt.Sprintf("store source %s", s.Name), func(tx pgx.Tx) error {
		var id int16
		err := tx.QueryRow(ctx, `
			INSERT INTO millrace.sources (id, name, system_id, timeline, database, slot, publication, publication_oid, consistent_point, exported, durable, plain_ids)
			SELECT coalesce((SELECT id FROM millrace.sources WHERE name = $1), (SELECT coalesce(max(id), 0) + 1 FROM millrace.sources)),
				$1, $2, $3, $4, $5, $6, $7, $8::text::pg_lsn, $9, $10::text::pg_lsn, $11
			ON CONFLICT (name) DO UPDATE SET system_id = excluded.system_id, timeline = excluded.timeline, database = excluded.database,
				slot = excluded.slot, publication = excluded.publication, publication_oid = excluded.publication_oid,
				consistent_point = excluded.consistent_point, exported = excluded.exported,
				durable = CASE WHEN (sources.system_id, sources.database) = (excluded.system_id, excluded.database)
					THEN greatest(sources.durable, excluded.durable) ELSE excluded.durable END
			RETURNING id, durable::text`,
			s.Name, s.SystemID, s.Timeline, s.Database, s.Slot, s.Publication, s.PublicationOID,
			s.ConsistentPoint.String(), s.Exported, s.Durable.String(), s.PlainIDs).Scan(&id, &durable)
		if err != nil {
			return err
		}
		if saved.ID != 0 && saved.ID != millrace.SourceID(id) {
			return fmt.Errorf("its number is %d, not %d", id, saved.ID)
		}
		saved.ID = millrace.SourceID(id)
		saved.Durable, err = millrace.ParseLSN(durable)
		return err
	})
	if err != nil {
		return err
	}
	*s = saved
	w.lsns[s.ID] = s.Durable
	return nil
}

// SaveTable stores a source table, giving it an ID if it has none.
func (w *Writer) SaveTable(ctx context.Context, t *millrace.SourceTable) error {
	saved := *t
	err := w.fenced(ctx, fmt.Sprintf("store table %s.%s", t.Schema, t.Name), func(tx pgx.Tx) error {
		if saved.ID == 0 {
			if err := tx.QueryRow(ctx, `SELECT coalesce(max(id), 0) + 1 FROM millrace.source_tables`).Scan(&saved.ID); err != nil {
				return err
			}
		}
		return saveTable(ctx, tx, &saved)
	})
	if err != nil {
		return err
	}
	t.ID = saved.ID
	return nil
}

// execer is a transaction, whoever began it.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

func saveTable(ctx context.Context, tx execer, t *millrace.SourceTable) error {
	columns, keys := t.Columns, t.KeyColumns
	if columns == nil {
		columns = []millrace.SourceColumn{}
	}
	if keys == nil {
		keys = []string{}
	}
	described, err := json.Marshal(columns)
	if err != nil {
		return fmt.Errorf("table %s.%s: %w", t.Schema, t.Name, err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO millrace.source_tables (id, source, oid, schema, name, identity, key_columns, columns, member, filter)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (id) DO UPDATE SET source = excluded.source, oid = excluded.oid, schema = excluded.schema, name = excluded.name,
			identity = excluded.identity, key_columns = excluded.key_columns, columns = excluded.columns,
			member = excluded.member, filter = excluded.filter, updated_at = now()`,
		int32(t.ID), int16(t.Source), t.OID, t.Schema, t.Name, string(t.Identity), keys, described, t.Member, t.Filter)
	return err
}

// mapped is an entry of rule_sets.mapping.
type mapped struct {
	Key        string                  `json:"key"`
	Kind       millrace.DefinitionKind `json:"kind"`
	Name       string                  `json:"name"`
	Definition millrace.DefinitionID   `json:"definition"`
}

// attachTries bounds how often a deploy is repeated when a partition cannot be
// attached because something else holds its parent.
const attachTries = 100

// attaching repeats what makes definitions, while a partition cannot be
// attached.
func (w *Writer) attaching(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		var pgErr *pgconn.PgError
		if err == nil || !errors.As(err, &pgErr) || pgErr.Code != "55P03" || try == attachTries { // lock_not_available
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		w.opts.Logger.Info("deploy waits for a lock on millrace.ops or millrace.row_state, trying again", "try", try)
	}
}

// Deploy stores a rule set in state building, in place of one that is being
// built. Definitions whose kind and hash are known keep their ID, wire prefix
// and history.
func (w *Writer) Deploy(ctx context.Context, content string, defs []millrace.Definition) (*millrace.RuleSet, error) {
	var set *millrace.RuleSet
	err := w.attaching(ctx, func() error {
		return w.fenced(ctx, "deploy rules", func(tx pgx.Tx) (err error) {
			set, err = deploy(ctx, tx, content, defs)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return set, nil
}

// deploy stores the rule set with the definitions that are new. The copies of a
// set that was being built go on, for the definitions that both have.
func deploy(ctx context.Context, tx pgx.Tx, content string, defs []millrace.Definition) (*millrace.RuleSet, error) {
	set := &millrace.RuleSet{Content: content, State: millrace.RuleSetBuilding, Definitions: slices.Clone(defs)}
	if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = '500ms'`); err != nil {
		return nil, err
	}
	mapping := make([]mapped, len(defs))
	keys := map[string]bool{}
	for i := range set.Definitions {
		d := &set.Definitions[i]
		if keys[d.Key] {
			return nil, fmt.Errorf("two definitions have the key %s", d.Key)
		}
		keys[d.Key] = true
		if err := ensureDefinition(ctx, tx, d); err != nil {
			return nil, fmt.Errorf("definition %s: %w", d.Key, err)
		}
		mapping[i] = mapped{d.Key, d.Kind, d.Name, d.ID}
	}
	text, err := json.Marshal(mapping)
	if err != nil {
		return nil, err
	}
	abandoned, err := abandonBuilding(ctx, tx)
	if err != nil {
		return nil, err
	}
	var id int32
	err = tx.QueryRow(ctx, `
		INSERT INTO millrace.rule_sets (id, content, state, mapping)
		SELECT coalesce(max(id), 0) + 1, $1, 'building', $2 FROM millrace.rule_sets RETURNING id`, content, text).Scan(&id)
	if err != nil {
		return nil, err
	}
	set.ID = millrace.RuleSetID(id)
	if len(abandoned) > 0 {
		if _, err := tx.Exec(ctx, `UPDATE millrace.copies SET rule_set = $1 WHERE rule_set = ANY ($2::int4[])`, id, abandoned); err != nil {
			return nil, err
		}
	}
	return set, retireDefinitions(ctx, tx, abandoned)
}

// ensureDefinition finds a definition by content, or makes it with its
// partitions.
func ensureDefinition(ctx context.Context, tx pgx.Tx, d *millrace.Definition) error {
	switch d.Kind {
	case millrace.BucketDefinition, millrace.LookupDefinition, millrace.EventDefinition:
	default:
		return fmt.Errorf("unknown kind %q", d.Kind)
	}
	if d.Hash == "" {
		return errors.New("it has no hash")
	}
	var id int32
	err := tx.QueryRow(ctx, `SELECT id, coalesce(wire_prefix, '') FROM millrace.definition_versions WHERE kind = $1 AND hash = $2 AND retired_at IS NULL`,
		string(d.Kind), d.Hash).Scan(&id, &d.WirePrefix)
	if err == nil {
		d.ID = millrace.DefinitionID(id)
		return nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	d.WirePrefix = ""
	if d.Kind == millrace.BucketDefinition {
		if d.WirePrefix, err = freeWirePrefix(ctx, tx); err != nil {
			return err
		}
	}
	err = tx.QueryRow(ctx, `
		INSERT INTO millrace.definition_versions (id, kind, hash, key, name, wire_prefix)
		SELECT coalesce(max(id), 0) + 1, $1, $2, $3, $4, nullif($5, '') FROM millrace.definition_versions RETURNING id`,
		string(d.Kind), d.Hash, d.Key, d.Name, d.WirePrefix).Scan(&id)
	if err != nil {
		return err
	}
	d.ID = millrace.DefinitionID(id)
	if d.Kind == millrace.BucketDefinition {
		if _, err := tx.Exec(ctx, `CALL millrace.add_partitions($1)`, id); err != nil {
			return fmt.Errorf("add its partitions: %w", err)
		}
	}
	return nil
}
