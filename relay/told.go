package relay

import (
	"slices"

	"github.com/millrace/millrace/protocol"
)

// told is what a session was sent of a node: its own lines and the data between,
// as one run of lines. A session that follows the same bucket in the same way,
// and nothing else that the node changes, is sent the same: of many clients of a
// bucket one pays for the making. Never modified.
type told struct {
	write    int64
	priority int
	reasons  []protocol.Reason
	lines    *dataLines
}

// toldMax bounds the data lines of which a copy is kept: for more, the making of
// the lines around them counts for nothing.
const toldMax = inlineAlways

// only gives the one held bucket that the deliveries change, if all there is to
// send is that change.
func (c *core) only(ds []delivery, room int) (only *heldBucket) {
	if len(ds) != 1 || !c.complete || c.as != protocol.JSON || ds[0].node.to <= c.at {
		return nil
	}
	for h := range c.touched(ds[0].node) {
		if only != nil {
			return nil
		}
		only = h
	}
	if only == nil {
		return nil
	}
	lines := ds[0].node.changes[only.ref].lines.Load()
	if lines == nil || len(lines.text) > min(room, toldMax) {
		return nil
	}
	return only
}

// retell moves to the end of the node with what another session was sent; false
// if that does not fit this one.
func (c *core) retell(d delivery, h *heldBucket, out *output) bool {
	ch := d.node.changes[h.ref]
	t := ch.told.Load()
	write := c.write
	if d.write != 0 {
		write = d.write
	}
	if t == nil || t.write != write || t.priority != h.priority || !slices.Equal(t.reasons, h.reasons) {
		return false
	}
	h.state, h.pos = ch.state, d.node.to
	c.at, c.write = d.node.to, write
	out.data(t.lines)
	out.completed = true
	return true
}

// keep keeps what a session was sent for others, if it was the first.
func (ch *change) keep(h *heldBucket, write int64, out *output) {
	if !out.completed || ch.told.Load() != nil {
		return
	}
	all := &dataLines{text: make([]byte, 0, out.size()), as: out.as, ops: out.ops}
	for _, c := range out.chunks {
		all.text = append(all.text, c.text...)
	}
	ch.told.CompareAndSwap(nil, &told{write: write, priority: h.priority, reasons: h.reasons, lines: all})
}
