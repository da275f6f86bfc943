package decoder

import (
	"maps"
	"slices"
	"testing"
	"unsafe"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

func snap(t testing.TB, text string) *snapshot {
	t.Helper()
	s, err := catalog.ParseSnapshot(text)
	if err != nil {
		t.Fatal(err)
	}
	return &s
}

// Trace C: the slot never delivers transaction 730, which its exported
// snapshot sees and a plain one does not.
func TestEntryConditionOfFirstStart(t *testing.T) {
	c := afterExport(snap(t, "734:735:"))
	if x, waits := c.missing(snap(t, "730:730:")); !waits || x != 730 {
		t.Fatalf("a snapshot that does not see 730 waits for %d (%v)", x, waits)
	}
	if x, waits := c.missing(snap(t, "730:736:730,735")); !waits || x != 730 {
		t.Fatalf("a snapshot with 730 in progress waits for %d (%v)", x, waits)
	}
	if x, waits := c.missing(snap(t, "735:736:735")); waits {
		t.Fatalf("waits for %d, which the slot delivers", x)
	}
}

func TestEntryConditionAfterAll(t *testing.T) {
	c := afterAll(snap(t, "100:110:100,105"))
	if x, waits := c.missing(snap(t, "105:120:105")); !waits || x != 105 {
		t.Fatalf("waits for %d (%v)", x, waits)
	}
	if _, waits := c.missing(snap(t, "110:121:112")); waits {
		t.Fatal("waits for a transaction that began later")
	}
}

// I4: nothing is confirmed beyond the first transaction not known visible.
func TestConfirmationTrailsVisibility(t *testing.T) {
	var u unseen
	u.observe(snap(t, "100:100:"))
	u.move(1000)
	u.add(100, 1100)
	u.add(101, 1200)
	u.add(102, 1300)
	if got := u.confirmable(1300); got != 1000 {
		t.Fatalf("confirmable %v with nothing visible", got)
	}
	u.observe(snap(t, "101:103:101")) // 102 is visible, 101 is held
	if got := u.confirmable(1300); got != 1100 {
		t.Fatalf("confirmable %v, want the end of 100", got)
	}
	u.move(1500)
	u.observe(snap(t, "103:103:"))
	if got := u.confirmable(1400); got != 1400 {
		t.Fatalf("confirmable %v, want what is durable", got)
	}
}

func TestUnseenIsBounded(t *testing.T) {
	var u unseen
	const n = maxUnseen + 100*unseenGroup
	for i := range n {
		u.add(xid(10+i), millrace.LSN(10+i))
	}
	if len(u.list) > maxUnseen+101 {
		t.Fatalf("%d entries", len(u.list))
	}
	last := &snapshot{Xmin: 10 + n - 1, Xmax: 10 + n, InProgress: []xid{10 + n - 1}}
	u.observe(last)
	if got, at := u.confirmable(1<<60), millrace.LSN(10+n-1-unseenGroup); got < at || got >= 10+n {
		t.Fatalf("confirmable %d with the last of %d held", got, n)
	}
	u.observe(&snapshot{Xmin: 10 + n, Xmax: 10 + n})
	if len(u.list) != 0 {
		t.Fatalf("%d entries are left", len(u.list))
	}
}

// enter makes a copy that is ready to ask.
func enter(t testing.TB, text string) *tableCopy {
	c := newTableCopy(entryCondition{})
	c.observe(snap(t, text))
	return c
}

func TestCopyMergesPagesInOrder(t *testing.T) {
	c := enter(t, "100:100:")
	first := c.ask(4, 10)
	if first == nil || c.ask(4, 10) != nil {
		t.Fatal("before the first chunk is read there is exactly one to ask for")
	}
	c.answer(first, snap(t, "100:100:"), 7, 10)
	second, third := c.ask(4, 10), c.ask(4, 10)
	if second.from != 4 || second.to != 8 || third.from != 8 || third.to != 10 {
		t.Fatalf("chunks are [%d,%d) and [%d,%d)", second.from, second.to, third.from, third.to)
	}
	if c.ask(4, 10) != nil {
		t.Fatal("asked beyond the end")
	}
	for i, ch := range []*chunk{first, second, third} {
		if c.done() {
			t.Fatalf("done before chunk %d", i)
		}
		c.answer(ch, snap(t, "100:100:"), 7, 12) // growth is no concern
		if v := c.judge(ch, 7, 12); v != mergeChunk {
			t.Fatalf("chunk %d: verdict %d", i, v)
		}
		c.merged(ch)
	}
	if !c.done() || c.cursor != 10 {
		t.Fatalf("not done at cursor %d", c.cursor)
	}
}

func TestRA15_CopyOfEmptyTable(t *testing.T) {
	c := enter(t, "100:100:")
	ch := c.ask(4, 10)
	c.answer(ch, snap(t, "100:100:"), 7, 0)
	if c.judge(ch, 7, 0) != mergeChunk {
		t.Fatal("not merged")
	}
	c.merged(ch)
	if !c.done() {
		t.Fatal("not done")
	}
}

// Trace A: a row the stream has touched with a transaction the chunk does not
// see is dropped; one it sees is not.
func TestSA11_CopyDropsByVisibility(t *testing.T) {
	c := enter(t, "210700:210700:")
	ch := c.ask(4, 10)
	c.touch("2062", 210814)
	c.touch("837", 210733)
	c.answer(ch, snap(t, "210732:210818:210734,210814,210816"), 7, 2)
	if c.judge(ch, 7, 2) != mergeChunk {
		t.Fatal("not merged")
	}
	if !c.drops(ch, "2062") {
		t.Error("a row older than the stream is merged")
	}
	if c.drops(ch, "837") || c.drops(ch, "1") {
		t.Error("a row the chunk sees whole is dropped")
	}
}

// Trace F as seen by the machine: entries go only once every read to come sees
// them.
func TestCopyForgetsByTheOldestRead(t *testing.T) {
	c := enter(t, "100:100:")
	first := c.ask(2, 10)
	c.answer(first, snap(t, "100:101:100"), 7, 4)
	second := c.ask(2, 10) // its snapshot is not known yet
	c.touch("a", 100)
	c.observe(snap(t, "102:102:"))
	if _, ok := c.touched["a"]; !ok {
		t.Fatal("forgotten while an outstanding read may not see it")
	}
	c.judge(first, 7, 4)
	c.merged(first)
	if _, ok := c.touched["a"]; !ok {
		t.Fatal("forgotten while the second read may not see it")
	}
	c.answer(second, snap(t, "102:102:"), 7, 4)
	c.judge(second, 7, 4)
	c.merged(second)
	if len(c.touched) != 0 {
		t.Fatal("kept though everything sees it")
	}
}

// Trace E: after a TRUNCATE a chunk that does not see it is read again.
func TestCopyRepeatsAfterTruncate(t *testing.T) {
	c := enter(t, "100:100:")
	first := c.ask(2, 10)
	c.answer(first, snap(t, "100:100:"), 7, 6)
	second, third := c.ask(2, 10), c.ask(2, 10)
	c.truncated(100)
	if c.ask(2, 10) != nil {
		t.Fatal("asked for a chunk that cannot see the truncate")
	}
	if v := c.judge(first, 7, 6); v != repeatChunk {
		t.Fatalf("verdict %d", v)
	}
	for _, ch := range []*chunk{second, third} {
		c.answer(ch, snap(t, "100:100:"), 7, 6)
		if v := c.judge(ch, 7, 6); v != discardChunk {
			t.Fatalf("chunk after a repeated one: verdict %d", v)
		}
	}
	c.observe(snap(t, "101:101:"))
	if again := c.ask(2, 10); again == nil || again.from != 0 {
		t.Fatalf("repeated chunk is %+v", again)
	}
}

func TestCopyRestartsAfterRewrite(t *testing.T) {
	c := enter(t, "100:100:")
	first := c.ask(2, 10)
	c.answer(first, snap(t, "100:100:"), 7, 6)
	c.judge(first, 7, 6)
	c.merged(first)
	second := c.ask(2, 10)
	c.answer(second, snap(t, "100:100:"), 8, 3)
	if v := c.judge(second, 8, 3); v != restartCopy {
		t.Fatalf("verdict %d", v)
	}
	next := c.ask(2, 10)
	if next.from != 0 || c.endPage != 3 || c.filenode != 8 || c.cursor != 0 {
		t.Fatalf("next chunk [%d,%d) of filenode %d, end %d", next.from, next.to, c.filenode, c.endPage)
	}
}

func TestTouchedIsBounded(t *testing.T) {
	c := enter(t, "100:100:")
	c.maxKeys = 3
	for _, key := range []string{"a", "b", "c", "d", "e", "a"} {
		c.touch(key, 100)
	}
	if len(c.touched) != 3 || !slices.Equal(c.tableX, []xid{100}) {
		t.Fatalf("%d keys, table-level %v", len(c.touched), c.tableX)
	}
	c.observe(snap(t, "101:101:"))
	if len(c.touched) != 0 || len(c.tableX) != 0 {
		t.Fatal("not forgotten")
	}
}

func TestRereadsWaitUntilVisible(t *testing.T) {
	c := enter(t, "100:100:")
	first := c.ask(2, 10)
	c.answer(first, snap(t, "100:100:"), 7, 0)
	c.judge(first, 7, 0)
	c.merged(first)
	c.touch("a", 100)
	c.incomplete("a")
	if c.done() || c.ask(2, 10) != nil {
		t.Fatal("a row whose change is not visible is asked for")
	}
	if x, ok := c.waitingFor(); !ok || x != 100 {
		t.Fatalf("waits for %d (%v)", x, ok)
	}
	c.observe(snap(t, "101:101:"))
	ch := c.ask(2, 10)
	if ch == nil || !slices.Equal(ch.keys, []string{"a"}) {
		t.Fatalf("asked for %+v", ch)
	}
	if c.ask(2, 10) != nil {
		t.Fatal("asked twice")
	}
	c.answer(ch, snap(t, "101:102:101"), 7, 0)
	c.touch("a", 101) // changed again meanwhile: dropped, and stays listed
	c.incomplete("a")
	c.judge(ch, 7, 0)
	if !c.drops(ch, "a") {
		t.Fatal("not dropped")
	}
	c.merged(ch)
	c.observe(snap(t, "102:102:"))
	if ch = c.ask(2, 10); ch == nil {
		t.Fatal("not asked for again")
	}
	c.answer(ch, snap(t, "102:102:"), 7, 0)
	c.judge(ch, 7, 0)
	c.complete("a")
	c.merged(ch)
	if !c.done() {
		t.Fatal("not done")
	}
	if got := c.takeChanges(); len(got) != 0 {
		t.Fatalf("added and struck in one flush leaves %v", got)
	}
}

// A row of the re-read list that is not in the table is not asked for for ever; one
// that the stream has newer of, is asked for again.
func TestRereadOfARowThatIsGone(t *testing.T) {
	c := enter(t, "100:100:")
	ch := c.ask(2, 10)
	c.answer(ch, snap(t, "100:100:"), 7, 0)
	c.judge(ch, 7, 0)
	c.merged(ch)
	c.incomplete("gone")
	c.incomplete("newer")
	if ch = c.ask(2, 10); ch == nil || len(ch.keys) != 2 {
		t.Fatalf("asked for %+v", ch)
	}
	c.answer(ch, snap(t, "100:100:"), 7, 0)
	c.touch("newer", 105)
	if got := c.judge(ch, 7, 0); got != mergeChunk {
		t.Fatalf("judged %v", got)
	}
	c.merged(ch) // neither row was there
	if _, still := c.reread["gone"]; still {
		t.Error("a row that is gone is asked for again")
	}
	if asked, still := c.reread["newer"]; !still || asked {
		t.Error("a row that the stream has newer of is forgotten")
	}
}

// The key of a row that is struck may be in the memory of a batch, which serves for
// other rows before the flush is written.
func TestStruckKeysLast(t *testing.T) {
	c := enter(t, "100:100:")
	c.incomplete("row 1")
	c.takeChanges() // stored
	memory := []byte("row 1")
	c.complete(unsafe.String(&memory[0], len(memory)))
	copy(memory, "row 2")
	if got := c.takeChanges(); !maps.Equal(got, map[string]bool{"row 1": false}) {
		t.Fatalf("struck: %v", got)
	}
}

func TestFullRereadListBeginsAgain(t *testing.T) {
	c := enter(t, "100:100:")
	c.maxReread = 2
	first := c.ask(2, 10)
	c.answer(first, snap(t, "100:100:"), 7, 9)
	c.judge(first, 7, 9)
	c.merged(first)
	for i, key := range []string{"a", "b", "c"} {
		if ok := c.incomplete(key); ok != (i < 2) {
			t.Fatalf("%s: %v", key, ok)
		}
	}
	if len(c.reread) != 0 || c.cursor != 0 || c.planned {
		t.Fatalf("%d rows, cursor %d, planned %v", len(c.reread), c.cursor, c.planned)
	}
}

func TestInterruptedCopyGoesOnAtItsCursor(t *testing.T) {
	c := enter(t, "100:100:")
	first := c.ask(2, 10)
	c.answer(first, snap(t, "100:100:"), 7, 9)
	c.judge(first, 7, 9)
	c.merged(first)
	lost := c.ask(2, 10)
	c.touch("a", 100)
	c.interrupted(entryCondition{})
	if c.ask(2, 10) != nil {
		t.Fatal("asked before a snapshot of the new session")
	}
	c.observe(snap(t, "101:101:"))
	again := c.ask(2, 10)
	if again.from != lost.from || len(c.touched) != 0 {
		t.Fatalf("goes on at page %d", again.from)
	}
	if v := c.judge(lost, 7, 9); v != discardChunk {
		t.Fatalf("chunk of the old session: verdict %d", v)
	}
}
