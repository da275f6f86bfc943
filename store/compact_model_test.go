package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace/millrace"
)

// compactModel is compaction of one bucket in a few lines, with one op after the
// other instead of sets: what the SQL is compared with.
type compactModel struct {
	ops             []millrace.Op
	floor           millrace.OpID
	to, upto, after millrace.OpID // compacted_to, upto and scanned
}

func (m *compactModel) nth(after, upto millrace.OpID, n int) (last millrace.OpID) {
	for _, op := range m.ops {
		if op.ID > after && op.ID <= upto && n > 0 {
			last = op.ID
			n--
		}
	}
	return last
}

func holdsRow(op millrace.Op) bool { return op.Kind == millrace.OpPut || op.Kind == millrace.OpRemove }

func rowOfOp(op millrace.Op) millrace.RowIdentity {
	return millrace.RowIdentity{Type: op.Type, RowID: op.RowID, Subkey: op.Subkey}
}

// step is one transaction; false if there was nothing to do.
func (m *compactModel) step(horizon millrace.OpID, limits compactLimits) bool {
	if m.upto == 0 {
		last := m.nth(m.to, horizon, limits.newsOps)
		if last == 0 {
			return false
		}
		m.upto, m.after = last, 0
	}
	end := m.nth(m.after, m.upto, limits.partOps)
	last := map[millrace.RowIdentity]millrace.OpID{}
	var cleared millrace.OpID
	leading := true
	for _, op := range m.ops {
		if op.ID <= m.after {
			leading = false
		}
		if op.ID > m.to && op.ID <= m.upto {
			if holdsRow(op) {
				last[rowOfOp(op)] = op.ID
			} else if op.Kind == millrace.OpClear {
				cleared = op.ID
			}
		}
	}
	dead := func(op millrace.Op) bool { return op.ID < cleared || holdsRow(op) && last[rowOfOp(op)] > op.ID }
	var run []millrace.Op // from the beginning of the bucket up to the first live row
	for _, op := range m.ops {
		if leading && op.ID <= end && (op.Kind != millrace.OpPut || dead(op)) {
			run = append(run, op)
		} else {
			leading = false
		}
	}
	if len(run) == 1 && run[0].Kind != millrace.OpPut {
		run = nil
	}
	var out []millrace.Op
	if n := len(run); n > 0 {
		var r millrace.Reduced
		r.Reduce(run...)
		m.floor = max(m.floor, run[n-1].ID)
		out = append(out, millrace.Op{ID: run[n-1].ID, Kind: millrace.OpClear, Checksum: r.Checksum})
	}
	for i, op := range m.ops {
		if op.ID > m.after && op.ID <= end && dead(op) {
			if holdsRow(op) {
				m.floor = max(m.floor, last[rowOfOp(op)])
			}
			if op.ID < cleared {
				m.floor = max(m.floor, cleared)
			}
			if holdsRow(op) && i >= len(run) {
				op = millrace.Op{ID: op.ID, Kind: millrace.OpMove, Checksum: op.Checksum}
			}
		}
		if i >= len(run) {
			out = append(out, op)
		}
	}
	m.ops = out
	switch {
	case end == m.upto:
		m.to, m.upto, m.after = m.upto, 0, 0
	case limits.partOps < 2 || end-1 <= m.after:
		m.after = end
	default:
		m.after = end - 1
	}
	return true
}

// randomLog makes a history as the decoder writes it: a REMOVE only where the
// last op of the row is a PUT, now and then a CLEAR that keeps the sum.
func randomLog(r *rand.Rand, n int) []millrace.Op {
	var ops []millrace.Op
	var state millrace.Reduced
	id := millrace.OpID(0)
	for len(ops) < n {
		id += millrace.OpID(1 + r.IntN(3)) // other buckets take numbers too
		op := millrace.Op{ID: id, Type: "t", RowID: string(rune('a' + r.IntN(3))), Subkey: []string{"", "s"}[r.IntN(2)]}
		_, there := state.Rows[rowOfOp(op)]
		switch {
		case r.IntN(12) == 0 && len(state.Rows) > 0:
			op = millrace.Op{ID: id, Kind: millrace.OpClear, Checksum: state.Checksum}
		case there && r.IntN(3) == 0:
			op.Kind, op.Checksum = millrace.OpRemove, millrace.Checksum(r.Uint32())
		default:
			op.Kind, op.Checksum, op.Data = millrace.OpPut, millrace.Checksum(r.Uint32()), fmt.Sprintf(`{"n":%d}`, id)
		}
		state.Reduce(op)
		ops = append(ops, op)
	}
	return ops
}

// holds is what a client has: rows by identity with their data, and the sum.
type holds struct {
	rows map[millrace.RowIdentity]string
	sum  millrace.Checksum
}

func (h *holds) reduce(ops []millrace.Op, after, upto millrace.OpID) {
	if h.rows == nil {
		h.rows = map[millrace.RowIdentity]string{}
	}
	for i := range ops {
		op := &ops[i]
		if op.ID <= after || op.ID > upto {
			continue
		}
		switch op.Kind {
		case millrace.OpClear:
			clear(h.rows)
			h.sum = 0
		case millrace.OpPut:
			h.rows[rowOfOp(*op)] = op.Data
		case millrace.OpRemove:
			delete(h.rows, rowOfOp(*op))
		}
		h.sum += op.Checksum
	}
}

func (h *holds) differs(o *holds) bool {
	if h.sum != o.sum || len(h.rows) != len(o.rows) {
		return true
	}
	for k, v := range h.rows {
		if w, ok := o.rows[k]; !ok || w != v {
			return true
		}
	}
	return false
}

const noLimit = millrace.OpID(1 << 40)

// checkCompacted holds a state of compaction against the log it came from.
func checkCompacted(log []millrace.Op, m *compactModel, horizon millrace.OpID) error {
	var want holds
	want.reduce(log, 0, noLimit)
	for i := -1; i < len(log); i++ {
		cut := millrace.OpID(0)
		if i >= 0 {
			cut = log[i].ID
		}
		var client holds
		client.reduce(log, 0, cut)
		if cut >= m.floor {
			var served holds
			served.reduce(m.ops, 0, cut)
			if served.differs(&client) {
				return fmt.Errorf("R58, R61: at checkpoint %d, floor %d, a new client gets %v, want %v", cut, m.floor, served, client)
			}
		}
		client.reduce(m.ops, cut, noLimit)
		if client.differs(&want) {
			return fmt.Errorf("R56, R57: a client that had everything up to %d ends with %v, want %v", cut, client, want)
		}
	}
	if m.floor > horizon {
		return fmt.Errorf("R59: floor %d above the horizon %d", m.floor, horizon)
	}
	above := slices.IndexFunc(log, func(op millrace.Op) bool { return op.ID > horizon })
	if above < 0 {
		above = len(log)
	}
	if tail := m.ops[len(m.ops)-min(len(m.ops), len(log)-above):]; !slices.Equal(tail, log[above:]) {
		return fmt.Errorf("R59: ops above the horizon %d have changed: %v", horizon, tail)
	}
	if len(log) > 0 && m.ops[len(m.ops)-1].ID != log[len(log)-1].ID {
		return fmt.Errorf("R60: the highest op is %d", m.ops[len(m.ops)-1].ID)
	}
	return nil
}

// checkComplete holds a finished compaction against R64: nothing superseded is
// left.
func checkComplete(ops []millrace.Op, horizon millrace.OpID) error {
	seen := map[millrace.RowIdentity]millrace.OpID{}
	void := false
	for _, op := range slices.Backward(ops) {
		if op.ID > horizon {
			continue
		}
		if holdsRow(op) {
			if later, dup := seen[rowOfOp(op)]; dup || void {
				return fmt.Errorf("R64: op %d is there beside %d", op.ID, later)
			}
			seen[rowOfOp(op)] = op.ID
		}
		void = void || op.Kind == millrace.OpClear
	}
	return nil
}

// TestSA20_CompactionModel (SA-20): random logs, horizons, limits, and interruptions
// after every transaction, each with every cut; clients that download piecemeal
// meanwhile end right too.
func TestSA20_CompactionModel(t *testing.T) {
	logs := uint64(120_000)
	if testing.Short() {
		logs = 5_000
	}
	for seed := range logs {
		r := rand.New(rand.NewPCG(seed, 1))
		log := randomLog(r, 1+r.IntN(12))
		last := log[len(log)-1].ID
		m := &compactModel{ops: slices.Clone(log)}
		var want holds
		want.reduce(log, 0, noLimit)
		var slow holds // reads a little after each step
		pos := millrace.OpID(0)
		horizon := millrace.OpID(0)
		for horizon < last {
			horizon = min(last, horizon+1+millrace.OpID(r.Int64N(int64(last))))
			limits := compactLimits{newsOps: 1 + r.IntN(6), partOps: 1 + r.IntN(6)}
			for m.step(horizon, limits) {
				if err := checkCompacted(log, m, horizon); err != nil {
					t.Fatalf("seed %d: %v\nlog %v\nnow %v", seed, err, log, m.ops)
				}
				next := pos + millrace.OpID(r.IntN(5))
				slow.reduce(m.ops, pos, next)
				pos = next
			}
			if err := checkComplete(m.ops, horizon); err != nil {
				t.Fatalf("seed %d: %v\nlog %v\nnow %v", seed, err, log, m.ops)
			}
		}
		if slow.reduce(m.ops, pos, noLimit); slow.differs(&want) {
			t.Fatalf("seed %d: a client that downloads meanwhile ends with %v, want %v\nlog %v\nnow %v", seed, slow, want, log, m.ops)
		}
	}
}
