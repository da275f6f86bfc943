package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
)

// State reads everything a new term starts from.
func (w *Writer) State(ctx context.Context) (*millrace.DecoderState, error) {
	if err := w.open(); err != nil {
		return nil, err
	}
	if w.flush.begun || w.flush.op > w.head.OpID {
		return nil, fmt.Errorf("read the decoder's state: a flush is open")
	}
	s := &millrace.DecoderState{Head: w.head}
	// One snapshot; nothing is written, so no fence is needed.
	err := pgx.BeginTxFunc(ctx, w.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, read := range []func(context.Context, pgx.Tx, *millrace.DecoderState) error{
			readSources, readTables, readRuleSets, readCopies, readRereads, readRecopies,
		} {
			if err := read(ctx, tx, s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, w.failure("read the decoder's state", err)
	}
	return s, nil
}

func readSources(ctx context.Context, tx pgx.Tx, s *millrace.DecoderState) error {
	rows, err := tx.Query(ctx, `
		SELECT id, name, system_id, timeline, database, slot, publication, publication_oid,
			consistent_point::text, exported, durable::text, plain_ids, lost_at, coalesce(was, ''),
			removal_requested_at IS NOT NULL AND lost_at IS NULL
		FROM millrace.sources ORDER BY id`)
	if err != nil {
		return err
	}
	s.Sources, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.Source, err error) {
		var id int16
		var consistent, durable string
		var lost *time.Time
		err = row.Scan(&id, &r.Name, &r.SystemID, &r.Timeline, &r.Database, &r.Slot, &r.Publication, &r.PublicationOID, &consistent, &r.Exported, &durable, &r.PlainIDs, &lost, &r.Was, &r.RemovalRequested)
		if err != nil {
			return r, err
		}
		r.ID = millrace.SourceID(id)
		if lost != nil {
			r.LostAt = *lost
		}
		if r.ConsistentPoint, err = millrace.ParseLSN(consistent); err != nil {
			return r, err
		}
		r.Durable, err = millrace.ParseLSN(durable)
		return r, err
	})
	return err
}

func readTables(ctx context.Context, tx pgx.Tx, s *millrace.DecoderState) error {
	rows, err := tx.Query(ctx, `
		SELECT id, source, oid, schema, name, identity, key_columns, columns, member, filter FROM millrace.source_tables
		WHERE forgotten_at IS NULL ORDER BY id`)
	if err != nil {
		return err
	}
	s.Tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.SourceTable, err error) {
		var id int32
		var source int16
		var identity string
		var columns []byte
		if err = row.Scan(&id, &source, &r.OID, &r.Schema, &r.Name, &identity, &r.KeyColumns, &columns, &r.Member, &r.Filter); err != nil {
			return r, err
		}
		r.ID, r.Source, r.Identity = millrace.TableID(id), millrace.SourceID(source), millrace.Identity(identity)
		return r, json.Unmarshal(columns, &r.Columns)
	})
	return err
}

func readRuleSets(ctx context.Context, tx pgx.Tx, s *millrace.DecoderState) error {
	rows, err := tx.Query(ctx, `SELECT id, hash, coalesce(wire_prefix, ''), without FROM millrace.definition_versions WHERE dropped_at IS NULL`)
	if err != nil {
		return err
	}
	versions := map[millrace.DefinitionID]millrace.Definition{}
	var id int32
	var d millrace.Definition
	without := map[millrace.DefinitionID][]millrace.SourceID{}
	var sources []int16
	if _, err := pgx.ForEachRow(rows, []any{&id, &d.Hash, &d.WirePrefix, &sources}, func() error {
		for _, s := range sources {
			without[millrace.DefinitionID(id)] = append(without[millrace.DefinitionID(id)], millrace.SourceID(s))
		}
		versions[millrace.DefinitionID(id)] = d
		return nil
	}); err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `
		SELECT id, content, state, coalesce(active_from, 0), mapping FROM millrace.rule_sets
		WHERE state IN ('building', 'active', 'retired') ORDER BY id`)
	if err != nil {
		return err
	}
	seen := map[millrace.DefinitionID]bool{}
	s.RuleSets, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.RuleSet, err error) {
		var id int32
		var state string
		var activeFrom int64
		var mapping []byte
		if err = row.Scan(&id, &r.Content, &state, &activeFrom, &mapping); err != nil {
			return r, err
		}
		r.ID, r.State, r.ActiveFrom = millrace.RuleSetID(id), millrace.RuleSetState(state), millrace.OpID(activeFrom)
		var entries []mapped
		if err := json.Unmarshal(mapping, &entries); err != nil {
			return r, err
		}
		for _, e := range entries {
			v, ok := versions[e.Definition]
			if !ok {
				return r, fmt.Errorf("rule set %d maps %s to definition %d, which does not exist", id, e.Key, e.Definition)
			}
			d := millrace.Definition{ID: e.Definition, Kind: e.Kind, Key: e.Key, Name: e.Name, Hash: v.Hash, WirePrefix: v.WirePrefix}
			r.Definitions = append(r.Definitions, d)
			if list := without[d.ID]; list != nil {
				if r.Without == nil {
					r.Without = map[millrace.DefinitionID][]millrace.SourceID{}
				}
				r.Without[d.ID] = list
			}
			if !seen[d.ID] {
				seen[d.ID] = true
				s.Definitions = append(s.Definitions, d)
			}
		}
		return r, nil
	})
	return err
}

func readCopies(ctx context.Context, tx pgx.Tx, s *millrace.DecoderState) error {
	rows, err := tx.Query(ctx, `
		SELECT c.id, c.rule_set, c.source_table, c.definitions, c.state, c.filenode, c.end_page, c.cursor_page, c.rows, c.estimate,
			c.wait_for, c.started_at, c.done_at, c.shadow, c.since::text
		FROM millrace.copies c JOIN millrace.rule_sets r ON r.id = c.rule_set
		WHERE c.state <> 'done' OR r.state = 'building' ORDER BY c.id`)
	if err != nil {
		return err
	}
	s.Copies, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.Copy, err error) {
		var id, filenode, endPage, cursor int64
		var set, table int32
		var definitions []int32
		var state string
		var waitFor []int64
		var started, done *time.Time
		var since string
		err = row.Scan(&id, &set, &table, &definitions, &state, &filenode, &endPage, &cursor, &r.Rows, &r.Estimate, &waitFor, &started, &done, &r.Shadow, &since)
		if err != nil {
			return r, err
		}
		if r.Since, err = millrace.ParseLSN(since); err != nil {
			return r, err
		}
		r.ID, r.RuleSet, r.Table, r.State = millrace.CopyID(id), millrace.RuleSetID(set), millrace.TableID(table), millrace.CopyState(state)
		r.Filenode, r.EndPage, r.Cursor = uint32(filenode), uint32(endPage), uint32(cursor)
		for _, d := range definitions {
			r.Definitions = append(r.Definitions, millrace.DefinitionID(d))
		}
		for _, x := range waitFor {
			r.WaitFor = append(r.WaitFor, uint64(x))
		}
		if started != nil {
			r.StartedAt = *started
		}
		if done != nil {
			r.DoneAt = *done
		}
		return r, err
	})
	return err
}

func readRecopies(ctx context.Context, tx pgx.Tx, s *millrace.DecoderState) error {
	rows, err := tx.Query(ctx, `
		SELECT c.source_table, e.change, e.at FROM millrace.schema_events e JOIN millrace.copies c ON c.id = e.copy
		WHERE c.shadow AND e.at > clock_timestamp() - $1::interval ORDER BY e.at`, millrace.RecopyWindow)
	if err != nil {
		return err
	}
	s.Recopies, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.Recopy, err error) {
		var table int32
		err = row.Scan(&table, &r.Change, &r.At)
		r.Table = millrace.TableID(table)
		return r, err
	})
	return err
}

func readRereads(ctx context.Context, tx pgx.Tx, s *millrace.DecoderState) error {
	rows, err := tx.Query(ctx, `SELECT copy, coalesce(full_key, row_key) FROM millrace.rereads ORDER BY copy, row_key`)
	if err != nil {
		return err
	}
	s.Rereads, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (r millrace.Reread, err error) {
		var id int64
		err = row.Scan(&id, &r.Key)
		r.Copy = millrace.CopyID(id)
		return r, err
	})
	return err
}
