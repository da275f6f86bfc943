package decoder

import (
	"slices"
	"strings"
)

// tableCopy is one copying of a table beside its stream by the exact chunk. It
// is a pure state machine: reading, merging and storing are done by its owner,
// who calls, in the order of the stream,
//
//	touch, truncated, incomplete, complete   for every change of the table
//	observe                                  for every snapshot taken
//	ask, answer                              for every chunk read
//	judge, drops, merged                     for every chunk, once the stream
//	                                         stands at or past its head
//
// Not for concurrent use.
type tableCopy struct {
	entry   entryCondition
	entered bool      // the entry condition held in some snapshot
	newest  *snapshot // newest one taken

	planned  bool   // filenode and endPage are known
	filenode uint32 // of the pages below
	endPage  uint32 // first page that need not be read
	next     uint32 // first page not asked for
	cursor   uint32 // first page not merged

	// touched has the rows that the stream changed, each with the latest
	// transaction, and tableX the transactions that may have changed any row;
	// both hold only what no outstanding or later read is sure to see.
	touched map[string]xid
	tableX  []xid
	maxKeys int // entries of touched; beyond that a transaction enters tableX

	// reread has the rows of which the stream did not tell a long value.
	reread    map[string]bool // true while a chunk asks for it
	maxReread int
	changes   map[string]bool // not yet stored: true = added, false = struck

	outstanding []*chunk

	without rule
	order   map[string]int // for tests that leave out visibilityRule
	clock   int
}

// chunk is one read of a copy: a range of pages, or the rows of a list.
type chunk struct {
	from, to uint32   // pages [from, to), if there are no keys
	keys     []string // row keys
	// floor is the snapshot it was read in; until that is known, the newest one
	// taken before it was asked for.
	floor *snapshot
	void  bool // nothing of it may be merged
	clock int
}

// verdict is what is to be done with a chunk that was read.
type verdict uint8

const (
	mergeChunk   verdict = iota // merge the rows that are not dropped
	repeatChunk                 // read it again: it does not see a change of the whole table
	restartCopy                 // the table was rewritten: all pages are read again
	discardChunk                // it was overtaken by a restart or repetition
)

// rule names a rule of the algorithm. Leaving one out gives wrong rows; tests
// do so to show that they would notice.
type rule uint8

const (
	_              rule = iota
	dropRule            // drop rows that the stream has touched
	visibilityRule      // … judging by what the chunk's snapshot sees
	filenodeRule        // start again when the table was rewritten
	truncateRule        // a TRUNCATE is a change of the whole table
	entryRule           // wait for what the stream will never deliver
	earlyConfirm        // confirm only what is visible
)

const (
	defaultMaxKeys   = 100_000
	defaultMaxReread = 500_000
)

func newTableCopy(entry entryCondition) *tableCopy {
	return &tableCopy{
		entry:     entry,
		touched:   map[string]xid{},
		maxKeys:   defaultMaxKeys,
		reread:    map[string]bool{},
		maxReread: defaultMaxReread,
		changes:   map[string]bool{},
		order:     map[string]int{},
	}
}

// resume is where an earlier term left the copy.
func (c *tableCopy) resume(filenode, endPage, cursor uint32) {
	c.entered, c.planned = true, true
	c.filenode, c.endPage, c.cursor, c.next = filenode, endPage, cursor, cursor
}

// touch notes that transaction x changed the row. Both keys of a key change
// are entered.
func (c *tableCopy) touch(key string, x xid) {
	if _, ok := c.touched[key]; !ok && len(c.touched) >= c.maxKeys {
		c.touchAll(x)
		return
	}
	c.touched[key] = x
	if c.without == visibilityRule {
		c.clock++
		c.order[key] = c.clock
	}
}

// touchAll notes that x may have changed any row.
func (c *tableCopy) touchAll(x xid) {
	if n := len(c.tableX); n == 0 || c.tableX[n-1] != x {
		c.tableX = append(c.tableX, x)
	}
}

// truncated notes that x emptied the table.
func (c *tableCopy) truncated(x xid) {
	if c.without != truncateRule {
		c.touchAll(x)
	}
}

// incomplete puts a row on the re-read list. It returns false if the list is
// full: the copy then has begun again from the first page, and the rows
// merged so far have their long values held.
func (c *tableCopy) incomplete(key string) bool {
	if _, ok := c.reread[key]; ok {
		return true
	}
	if len(c.reread) >= c.maxReread {
		c.strikeAll()
		c.begin()
		c.planned = false
		return false
	}
	c.reread[key] = false
	c.note(key, true)
	return true
}

// complete strikes a row from the re-read list: it was told in full, has moved
// or is gone. The key need not last: it may be in the memory of a batch.
func (c *tableCopy) complete(key string) {
	if _, ok := c.reread[key]; ok {
		delete(c.reread, key)
		c.note(strings.Clone(key), false)
	}
}

// strikeAll empties the re-read list.
func (c *tableCopy) strikeAll() {
	for key := range c.reread {
		c.complete(key)
	}
}

func (c *tableCopy) note(key string, added bool) {
	if was, ok := c.changes[key]; ok && was != added {
		delete(c.changes, key)
		return
	}
	c.changes[key] = added
}

// takeChanges gives the changes of the re-read list since the last call.
func (c *tableCopy) takeChanges() map[string]bool {
	if len(c.changes) == 0 {
		return nil
	}
	changes := c.changes
	c.changes = map[string]bool{}
	return changes
}

// observe takes note of a snapshot of the source. It may open the copy and lets it forget what every read still to
// be merged sees.
func (c *tableCopy) observe(s *snapshot) {
	if c.newest == nil || s.Xmin >= c.newest.Xmin && s.Xmax >= c.newest.Xmax {
		c.newest = s
	}
	if !c.entered {
		_, waiting := c.entry.missing(s)
		c.entered = !waiting || c.without == entryRule
	}
	c.forget()
}

// waitingFor is the first transaction that must become visible before the copy
// can go on; ok is false if it waits for none.
func (c *tableCopy) waitingFor() (x xid, ok bool) {
	if c.newest == nil {
		return 0, false
	}
	if !c.entered {
		return c.entry.missing(c.newest)
	}
	for _, x := range c.tableX {
		if !c.newest.Visible(x) {
			return x, true
		}
	}
	if c.planned && c.next >= c.endPage {
		for key := range c.reread {
			if x, ok := c.touched[key]; ok && !c.newest.Visible(x) {
				return x, true
			}
		}
	}
	return 0, false
}

// ask gives the next chunk to read, of at most pages pages or maxKeys rows, or
// nil if there is none at present. The read must begin after the call.
func (c *tableCopy) ask(pages uint32, maxKeys int) *chunk {
	if !c.entered || c.newest == nil {
		return nil
	}
	for _, x := range c.tableX {
		if !c.newest.Visible(x) {
			return nil // a read could not see it either
		}
	}
	ch := &chunk{floor: c.newest, clock: c.clock}
	switch {
	case !c.planned:
		// The first chunk tells the filenode and the end of all others.
		if len(c.outstanding) > 0 {
			return nil
		}
		ch.to = pages
	case c.next < c.endPage:
		ch.from = c.next
		ch.to = min(c.endPage, c.next+pages)
	default:
		if ch.keys = c.askKeys(maxKeys); ch.keys == nil {
			return nil
		}
	}
	if ch.keys == nil {
		c.next = ch.to
	}
	c.outstanding = append(c.outstanding, ch)
	return ch
}

// askKeys takes rows of the re-read list whose last change a read now sees.
func (c *tableCopy) askKeys(limit int) []string {
	var keys []string
	for key, asked := range c.reread {
		if len(keys) >= limit {
			break
		}
		if asked {
			continue
		}
		if x, ok := c.touched[key]; ok && !c.newest.Visible(x) {
			continue
		}
		keys = append(keys, key)
	}
	for _, key := range keys {
		c.reread[key] = true
	}
	return keys
}

// answer takes note of what a chunk was read in: the snapshot, the table's
// filenode and its size in pages, both read after the snapshot was taken.
func (c *tableCopy) answer(ch *chunk, s *snapshot, filenode, pages uint32) {
	ch.floor = s
	if ch.void {
		return
	}
	if !c.planned && ch.keys == nil {
		c.planned = true
		c.filenode, c.endPage = filenode, pages
		ch.to = min(ch.to, pages)
		c.next = ch.to
	}
}

// failed takes back a chunk that could not be read.
func (c *tableCopy) failed(ch *chunk) {
	if ch.void {
		c.drop(ch)
		return
	}
	c.again(ch)
}

// judge says what to do with a chunk. The stream stands at or past the chunk's
// head, at a transaction boundary. Chunks of pages are judged in the order
// they were asked for. After any verdict but mergeChunk the chunk is done with.
func (c *tableCopy) judge(ch *chunk, filenode, pages uint32) verdict {
	switch {
	case ch.void:
		c.drop(ch)
		return discardChunk
	case filenode != c.filenode && c.without != filenodeRule:
		c.begin()
		c.filenode, c.endPage = filenode, pages
		c.drop(ch)
		return restartCopy
	case c.misses(ch):
		c.again(ch)
		return repeatChunk
	}
	return mergeChunk
}

// misses tells whether a chunk does not see a change of the whole table.
func (c *tableCopy) misses(ch *chunk) bool {
	for _, x := range c.tableX {
		if !ch.floor.Visible(x) {
			return true
		}
	}
	return false
}

// drops tells whether a row of a chunk must not be merged: the stream has
// newer of it.
func (c *tableCopy) drops(ch *chunk, key string) bool {
	x, ok := c.touched[key]
	switch {
	case !ok || c.without == dropRule:
		return false
	case c.without == visibilityRule:
		return c.order[key] > ch.clock
	}
	return !ch.floor.Visible(x)
}

// merged takes note that the rows of a chunk were merged, those kept being
// complete. A row that was asked for and was not there is gone, unless the stream
// has newer of it.
func (c *tableCopy) merged(ch *chunk) {
	if ch.keys == nil {
		c.cursor = max(c.cursor, ch.to)
	}
	for _, key := range ch.keys {
		if !c.drops(ch, key) {
			c.complete(key)
		}
	}
	c.drop(ch)
}

// done tells whether the copy is exact: every page is merged and no row has to
// be read again.
func (c *tableCopy) done() bool {
	return c.planned && c.cursor >= c.endPage && len(c.reread) == 0 && len(c.outstanding) == 0
}

// interrupted forgets what lives as long as the stream's connection. entry is
// waited for if the copy had not been entered.
func (c *tableCopy) interrupted(entry entryCondition) {
	for _, ch := range c.outstanding {
		ch.void = true
	}
	c.outstanding = nil
	clear(c.touched)
	c.tableX = nil
	c.newest = nil
	c.next = c.cursor
	for key := range c.reread {
		c.reread[key] = false
	}
	if !c.entered {
		c.entry = entry
	}
}

// begin goes back to the first page. Nothing is cleared: what is there is
// exact.
func (c *tableCopy) begin() {
	c.cursor, c.next = 0, 0
	for _, ch := range c.outstanding {
		c.void(ch)
	}
}

// again goes back to where the chunk began; those after it are void too, so
// that pages are merged in order.
func (c *tableCopy) again(ch *chunk) {
	if ch.keys == nil {
		c.next = ch.from
		for _, other := range c.outstanding {
			if other.keys == nil && other.from >= ch.from {
				c.void(other)
			}
		}
	}
	c.void(ch)
	c.drop(ch)
}

// void keeps a chunk in the list, since its read goes on, but nothing of it
// will be merged.
func (c *tableCopy) void(ch *chunk) {
	ch.void = true
	c.release(ch)
}

// release lets a chunk's rows be asked for again.
func (c *tableCopy) release(ch *chunk) {
	for _, key := range ch.keys {
		if _, ok := c.reread[key]; ok {
			c.reread[key] = false
		}
	}
}

func (c *tableCopy) drop(ch *chunk) {
	c.release(ch)
	if i := slices.Index(c.outstanding, ch); i >= 0 {
		c.outstanding = slices.Delete(c.outstanding, i, i+1)
	}
	c.forget()
}

// forget drops the entries that every outstanding read and the newest snapshot
// see, and so every later read does.
func (c *tableCopy) forget() {
	if c.newest == nil {
		return
	}
	for key, x := range c.touched {
		if c.seenByAll(x) {
			delete(c.touched, key)
		}
	}
	c.tableX = slices.DeleteFunc(c.tableX, c.seenByAll)
}

func (c *tableCopy) seenByAll(x xid) bool {
	if !c.newest.Visible(x) {
		return false
	}
	for _, ch := range c.outstanding {
		if !ch.void && !ch.floor.Visible(x) {
			return false
		}
	}
	return true
}
