package decoder

import (
	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// unseen is the list of a source's transactions that were applied and are not
// yet known to be visible there: a commit is decoded before others can see it,
// for as long as a synchronous standby makes it wait. The source may be told
// no position beyond the first of them (I4), since after a crash the transactions
// must come again for a copy to know that its reads may be older than the
// stream.
type unseen struct {
	list    []unseenTx
	at      millrace.LSN // where the stream stands
	newest  xid          // newest xmax seen, for widening
	without rule
}

type unseenTx struct {
	xid    xid          // the greatest, if several are kept as one
	many   bool         // visible for certain only below a snapshot's xmin
	count  int          // transactions kept as this one
	before millrace.LSN // where the stream stood before the first of them
}

// Held commits are the only growth of the list. Beyond maxUnseen entries,
// transactions are kept unseenGroup at a time.
const (
	maxUnseen   = 50_000
	unseenGroup = 1_000
)

// widen is the full id of a Begin message's transaction.
func (u *unseen) widen(x uint32) xid { return catalog.Widen(x, u.newest) }

// add enters a transaction of which the stream has passed the end.
func (u *unseen) add(x xid, end millrace.LSN) {
	if n := len(u.list); n >= maxUnseen && u.list[n-1].count < unseenGroup {
		last := &u.list[n-1]
		last.xid, last.many = max(last.xid, x), true
		last.count++
	} else {
		u.list = append(u.list, unseenTx{xid: x, count: 1, before: u.at})
	}
	u.at = max(u.at, end)
}

// move notes that the stream is at pos with no transaction open.
func (u *unseen) move(pos millrace.LSN) { u.at = max(u.at, pos) }

// observe cuts what s sees from the front of the list.
func (u *unseen) observe(s *snapshot) {
	u.newest = max(u.newest, s.Xmax)
	i := 0
	for i < len(u.list) {
		t := &u.list[i]
		if t.many && t.xid >= s.Xmin || !s.Visible(t.xid) {
			break
		}
		i++
	}
	u.list = append(u.list[:0], u.list[i:]...)
}

// confirmable is how far the source may be told, given what is durable.
func (u *unseen) confirmable(durable millrace.LSN) millrace.LSN {
	if len(u.list) == 0 || u.without == earlyConfirm {
		return durable
	}
	return min(durable, u.list[0].before)
}

// reset forgets everything but the epoch: the stream begins again.
func (u *unseen) reset() { *u = unseen{newest: u.newest, without: u.without} }
