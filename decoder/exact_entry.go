package decoder

import "github.com/millrace/millrace/decoder/catalog"

// xid is a top-level transaction id with its epoch (64 bits). Row xmins are
// never compared with one: they may be ids of subtransactions.
type xid = uint64

// snapshot tells which transactions a read of the source sees. It is never
// changed, so that the pointer may be kept.
type snapshot = catalog.Snapshot

// entryCondition says from which snapshot on a copy may be planned: everything
// that the stream will never deliver to the definitions being built must be
// visible by then. The zero value always holds.
type entryCondition struct {
	exported *snapshot // all that this snapshot sees
	after    xid       // everything below, finished
}

// afterExport is the condition of the first start: the slot delivers exactly
// what the snapshot exported with it does not see.
func afterExport(e *snapshot) entryCondition { return entryCondition{exported: e} }

// afterAll is the condition of a copy registered on a slot that has delivered
// before: p0 was taken after the registration, and everything that may have
// been running then is finished. What the stream had passed by then, though
// not yet visible, is among it.
func afterAll(p0 *snapshot) entryCondition { return entryCondition{after: p0.Xmax} }

// missing is the first transaction that p would have to see; ok is false if
// there is none and the condition holds.
func (c entryCondition) missing(p *snapshot) (x xid, ok bool) {
	if p.Xmin < c.after {
		return p.Xmin, true
	}
	if c.exported == nil {
		return 0, false
	}
	for _, x := range p.InProgress {
		if c.exported.Visible(x) {
			return x, true
		}
	}
	for x := p.Xmax; x < c.exported.Xmax; x++ {
		if c.exported.Visible(x) {
			return x, true
		}
	}
	return 0, false
}
