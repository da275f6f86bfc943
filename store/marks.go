package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace"
)

// markKey names a device towards an event definition.
type markKey struct {
	definition millrace.DefinitionID
	user       string
}

// noteMarks collects the custom write checkpoints of changes. They become
// visible with the checkpoint of this flush, which contains whole source
// transactions in order: so everything their source committed before them.
// Those of rows that are copied into a shadow count at once, too.
func (w *Writer) noteMarks(ctx context.Context, changes []millrace.Change) error {
	for i := range changes {
		c := &changes[i]
		if len(c.Marks) == 0 {
			continue
		}
		if c.Kind != millrace.ChangeUpsert {
			return fmt.Errorf("apply: a change of kind %d of table %d has write checkpoints", c.Kind, c.Scope.Table)
		}
		for j := range c.Marks {
			if err := w.noteMark(c, &c.Marks[j]); err != nil {
				return err
			}
		}
		if w.collected() > w.opts.PieceBytes {
			if err := w.writeOut(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *Writer) noteMark(c *millrace.Change, m *millrace.WriteMark) error {
	switch {
	case !slices.Contains(c.Scope.Events, m.Definition):
		return fmt.Errorf("apply: a row of table %d has a write checkpoint of definition %d, which is not in its scope", c.Scope.Table, m.Definition)
	case m.ID <= 0 || m.ID > millrace.MaxWriteCheckpoint:
		return fmt.Errorf("apply: a row of table %d has the write checkpoint %d", c.Scope.Table, m.ID)
	case m.User == "" || len(m.User) > millrace.MaxWriteUserBytes:
		return fmt.Errorf("apply: a row of table %d has a write checkpoint for a device of %d bytes", c.Scope.Table, len(m.User))
	}
	k := markKey{m.Definition, m.User}
	id, there := w.flush.marks[k]
	if id >= m.ID {
		return nil
	}
	if !there {
		k.user = strings.Clone(m.User)
	}
	w.flush.marks[k] = m.ID
	return nil
}

// addMarks writes what was collected, in the order of the primary key.
func (w *Writer) addMarks(b *batch) {
	if len(w.flush.marks) == 0 {
		return
	}
	keys := make([]markKey, 0, len(w.flush.marks))
	for k := range w.flush.marks {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b markKey) int {
		return cmp.Or(cmp.Compare(a.definition, b.definition), strings.Compare(a.user, b.user))
	})
	definitions, users, ids := make([]int32, len(keys)), make([]string, len(keys)), make([]int64, len(keys))
	for i, k := range keys {
		definitions[i], users[i], ids[i] = int32(k.definition), k.user, w.flush.marks[k]
	}
	b.add(stmtMarks, int4Array(definitions), textArray(users), int8Array(ids), int8Param(w.head.Seq+1))
}
