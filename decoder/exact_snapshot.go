package decoder

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// xid is a top-level transaction id with its epoch (64 bits). Row xmins are
// never compared with one: they may be ids of subtransactions.
type xid uint64

// widen gives Begin's 32 bits the epoch that brings them nearest to ref, the
// newest xmax seen.
func widen(x uint32, ref xid) xid {
	return xid(int64(ref) + int64(int32(x-uint32(ref))))
}

// snapshot is a pg_snapshot: it tells which transactions a read sees. It is
// never changed, so copies of the pointer may be kept.
type snapshot struct {
	xmin, xmax xid
	xip        []xid // running ones in [xmin, xmax), ascending
}

// parseSnapshot reads Postgres's text form "xmin:xmax:xip,…".
func parseSnapshot(text string) (*snapshot, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return nil, fmt.Errorf("parse snapshot %q: want xmin:xmax:xip", text)
	}
	s := &snapshot{}
	for i, to := range []*xid{&s.xmin, &s.xmax} {
		n, err := strconv.ParseUint(parts[i], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse snapshot %q: %w", text, err)
		}
		*to = xid(n)
	}
	if s.xmin > s.xmax {
		return nil, fmt.Errorf("parse snapshot %q: xmin beyond xmax", text)
	}
	if parts[2] == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(parts[2], ",") {
		n, err := strconv.ParseUint(part, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse snapshot %q: %w", text, err)
		}
		s.xip = append(s.xip, xid(n))
	}
	slices.Sort(s.xip)
	return s, nil
}

// sees tells whether what x committed is visible. For a transaction that was
// rolled back it may say true: there is nothing to see then.
func (s *snapshot) sees(x xid) bool {
	if x < s.xmin {
		return true
	}
	if x >= s.xmax {
		return false
	}
	_, running := slices.BinarySearch(s.xip, x)
	return !running
}

// String is Postgres's text form.
func (s *snapshot) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d:", s.xmin, s.xmax)
	for i, x := range s.xip {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d", x)
	}
	return b.String()
}

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
func afterAll(p0 *snapshot) entryCondition { return entryCondition{after: p0.xmax} }

// missing is the first transaction that p would have to see; ok is false if
// there is none and the condition holds.
func (c entryCondition) missing(p *snapshot) (x xid, ok bool) {
	if p.xmin < c.after {
		return p.xmin, true
	}
	if c.exported == nil {
		return 0, false
	}
	for _, x := range p.xip {
		if c.exported.sees(x) {
			return x, true
		}
	}
	for x := p.xmax; x < c.exported.xmax; x++ {
		if c.exported.sees(x) {
			return x, true
		}
	}
	return 0, false
}
