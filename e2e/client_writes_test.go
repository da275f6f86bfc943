package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
)

// Groups are to-dos of a shared list that every transaction gives one title
// together; pairs are to-dos that every transaction inserts two at a time.
// Whoever sees two titles in a group, or one of a pair, sees half a transaction.
//
// Each device has a group of its own that it alone writes, counting up, and
// there is one that all devices and the source write.
const (
	sharedList = "00000000-0000-4000-a000-000000000001" // alice's, bob is a member
	lentList   = "00000000-0000-4000-a000-000000000002" // bob's, lent to carol and taken back as a whole
	groupSize  = 3
)

// audit notes what transactions did to the groups and pairs, in a table that
// nobody syncs.
const audit = `
CREATE TABLE audit (n bigserial PRIMARY KEY, xid text NOT NULL DEFAULT pg_current_xact_id()::text, op text NOT NULL, id text NOT NULL, title text NOT NULL);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO audit (op, id, title) VALUES (TG_OP, NEW.id, NEW.title);
  RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE ON todos FOR EACH ROW EXECUTE FUNCTION note();`

// groupID is the id of a group's to-do; group 0 is everybody's.
func groupID(group, i int) string {
	return fmt.Sprintf("99999999-0000-4000-a000-%06d%06d", group, i)
}

// seedGroups makes the rows of groups 0 to n.
func (d *demoSystem) seedGroups(n int) {
	d.t.Helper()
	var b strings.Builder
	for group := range n + 1 {
		for i := range groupSize {
			fmt.Fprintf(&b, "INSERT INTO todos (id, list_id, title) VALUES ('%s', '%s', '0');\n", groupID(group, i), sharedList)
		}
	}
	execSQL(d.t, d.sourceURI, b.String())
}

// writer is a device with its own group.
type writer struct {
	*device
	group   int
	counter atomic.Int64 // the title of the own group, as last written here
	pairs   atomic.Int64 // inserted here
	polls   atomic.Int64
}

// work writes one transaction: the own group counts on, the shared one gets
// this device's title, and a pair is inserted.
func (w *writer) work(ctx context.Context) error {
	next := w.counter.Load() + 1
	pair := w.pairs.Load() + 1
	err := w.db.Transaction(ctx, func(tx *clientsdk.Tx) error {
		for group, title := range map[int]string{w.group: fmt.Sprint(next), 0: fmt.Sprint(w.name, " ", next)} {
			if _, err := tx.Execute(ctx, `UPDATE todos SET title = ? WHERE id BETWEEN ? AND ?`, title, groupID(group, 0), groupID(group, groupSize-1)); err != nil {
				return err
			}
		}
		for half := range 2 {
			if _, err := tx.Execute(ctx, `INSERT INTO todos (id, list_id, title, completed) VALUES (?, ?, ?, 0)`,
				fmt.Sprintf("99999999-0000-4000-b%03d-%011d%d", w.group, pair, half), sharedList, fmt.Sprintf("pair %s %d", w.name, pair)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		w.pairs.Store(pair)
		w.counter.Store(next)
	}
	return err
}

// look reads everything in one statement and checks it. Before the first
// complete sync there is nothing to see.
func (w *writer) look(ctx context.Context) error {
	if !w.db.Status().HasSynced {
		return nil
	}
	before, pairsBefore := w.counter.Load(), w.pairs.Load()
	rows, err := w.db.Query(ctx, `SELECT id, title FROM todos WHERE id BETWEEN '99999999' AND '9999999a'
		UNION ALL SELECT 'lent todo', title FROM todos WHERE id BETWEEN '00000000-0000-4000-b000-000000000011' AND '00000000-0000-4000-b000-000000000020'
		UNION ALL SELECT 'lent list', name FROM lists WHERE id = ?`, lentList)
	if err != nil {
		return err
	}
	defer rows.Close()
	counts := map[string]int64{}       // of ids
	titles := map[int][]string{0: nil} // by group
	pairs, ownPairs := map[string]int{}, map[string]bool{}
	for rows.Next() {
		var id, title string
		if err := rows.Scan(&id, &title); err != nil {
			return err
		}
		counts[id]++
		for _, group := range []int{0, w.group} {
			if id >= groupID(group, 0) && id <= groupID(group, groupSize-1) {
				titles[group] = append(titles[group], title)
			}
		}
		if strings.HasPrefix(title, "pair ") {
			pairs[title]++
		}
		if strings.HasPrefix(title, "pair "+w.name+" ") {
			ownPairs[title] = true
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	after, pairsAfter := w.counter.Load(), w.pairs.Load()
	w.polls.Add(1)
	var found []error
	bad := func(format string, args ...any) { found = append(found, fmt.Errorf(format, args...)) }
	for group, t := range titles {
		if len(t) != groupSize || len(slices.Compact(slices.Clone(t))) != 1 {
			bad("half a transaction: group %d shows %q", group, t)
		}
	}
	for title, n := range pairs {
		if n != 2 {
			bad("half a transaction: %d to-dos are %q", n, title)
		}
	}
	// A writer that has committed and not counted yet is one ahead.
	if own := titles[w.group]; len(own) > 0 {
		if n, err := strconv.ParseInt(own[0], 10, 64); err != nil || n < before || n > after+1 {
			bad("the own group shows %s, %d was written before and %d after", own[0], before, after)
		}
	}
	if n := int64(len(ownPairs)); n < pairsBefore || n > pairsAfter+1 {
		bad("%d own pairs are shown, %d were written before and %d after", n, pairsBefore, pairsAfter)
	}
	if lists, todos := counts["lent list"], counts["lent todo"]; todos != lists*10 {
		bad("half a list: it is there %d times and %d of its to-dos", lists, todos)
	}
	if len(found) > 0 {
		return fmt.Errorf("%s: %w; status %+v", w.name, errors.Join(found...), w.db.Status())
	}
	return nil
}

// watch looks again and again until stop, and reports the first breach.
func (w *writer) watch(stop <-chan struct{}) {
	ctx := context.Background()
	for {
		if err := w.look(ctx); err != nil {
			w.t.Error(err)
			return
		}
		select {
		case <-stop:
			return
		case <-time.After(30 * time.Millisecond): // leave the processor to others
		}
	}
}

// live writes, goes offline and comes back at random until stop.
func (w *writer) live(stop <-chan struct{}, rnd *rand.Rand) {
	online := true
	for {
		select {
		case <-stop:
			if !online {
				w.connect()
			}
			return
		case <-time.After(time.Duration(5+rnd.IntN(60)) * time.Millisecond): // a person at work
		}
		switch k := rnd.IntN(12); {
		case k == 0 && online:
			w.db.Disconnect()
			online = false
		case k <= 1 && !online:
			w.connect()
			online = true
		default:
			if err := w.work(context.Background()); err != nil {
				w.t.Errorf("%s: %v", w.name, err)
				return
			}
		}
	}
}

// checkAudit holds what the source was given against what the devices wrote:
// every transaction whole, in order, and once, but for those whose answer was
// lost in a kill; how many were repeated is returned.
func (d *demoSystem) checkAudit(writers []*writer) (repeated int) {
	d.t.Helper()
	for _, w := range writers {
		want := w.counter.Load()
		prefix := strings.TrimSuffix(groupID(w.group, 0), "000000") + "%"
		const inTransactions = `WITH tx AS (SELECT xid, min(n) AS n, min(title::bigint) AS low, max(title::bigint) AS high, count(*) AS rows
			FROM audit WHERE op = 'UPDATE' AND id LIKE $1 GROUP BY xid) `
		if n := query[int](d.t, d.sourceURI, inTransactions+`SELECT count(*) FROM tx WHERE rows <> $2 OR low <> high`, prefix, groupSize); n > 0 {
			d.t.Errorf("%s: %d source transactions hold a part of a local one, or several", w.name, n)
		}
		if n := query[int](d.t, d.sourceURI, inTransactions+`SELECT count(*) FROM (SELECT low < lag(low) OVER (ORDER BY n) AS back FROM tx) x WHERE back`, prefix); n > 0 {
			d.t.Errorf("%s: %d transactions were applied after later ones", w.name, n)
		}
		if n := query[int64](d.t, d.sourceURI, inTransactions+`SELECT count(DISTINCT low) FROM tx`, prefix); n != want {
			d.t.Errorf("%s: the source got %d transactions, the device wrote %d", w.name, n, want)
		}
		repeated += query[int](d.t, d.sourceURI, inTransactions+`SELECT count(*) - count(DISTINCT low) FROM tx`, prefix)
		pairs := "pair " + w.name + " %"
		if n := query[int64](d.t, d.sourceURI, `SELECT count(*) FROM audit WHERE op = 'INSERT' AND title LIKE $1`, pairs); n != 2*w.pairs.Load() {
			d.t.Errorf("%s: %d to-dos of pairs were inserted, the device wrote %d", w.name, n, 2*w.pairs.Load())
		}
		if n := query[int](d.t, d.sourceURI, `SELECT count(*) FROM (SELECT 1 FROM audit WHERE op = 'INSERT' AND title LIKE $1 GROUP BY title HAVING count(*) <> 2 OR count(DISTINCT xid) <> 1) x`, pairs); n > 0 {
			d.t.Errorf("%s: %d pairs were not inserted in one transaction", w.name, n)
		}
	}
	return repeated
}

// What a device writes offline is seen on it all the time, and uploaded after
// it comes back: once, whole transactions, in order; over both transports.
func TestSA27_OfflineWrites(t *testing.T) {
	d := newDemo(t, demoOptions{schema: audit})
	d.start()
	d.ready()
	d.seedGroups(3)
	var writers []*writer
	for i, c := range []struct {
		name, user string
		transport  clientsdk.Transport
	}{{"phone", "alice", clientsdk.WebSocket}, {"laptop", "alice", clientsdk.HTTP}, {"tablet", "bob", clientsdk.Auto}} {
		w := &writer{device: newDevice(t, d, c.name, c.user, c.transport), group: i + 1}
		writers = append(writers, w)
		w.connect()
		w.inSync(waitTimeout)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for _, w := range writers {
		group.Go(func() { w.watch(stop) })
		w.db.Disconnect()
	}
	const transactions = 15
	for range transactions {
		for _, w := range writers {
			if err := w.work(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Meanwhile others write.
	execSQL(t, d.sourceURI, sharedUpdate("psql"))
	if n := query[int](t, d.sourceURI, `SELECT count(*) FROM audit WHERE title LIKE 'pair %'`); n != 0 {
		t.Errorf("%d rows were uploaded offline", n)
	}
	for _, w := range writers {
		w.connect()
	}
	for _, w := range writers {
		w.inSync(waitTimeout)
	}
	// And while they are online.
	for range transactions {
		for _, w := range writers {
			if err := w.work(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range writers {
		w.inSync(waitTimeout)
	}
	close(stop)
	group.Wait()
	for _, w := range writers {
		if n := w.uploaded(); n != 2*transactions {
			t.Errorf("%s uploaded %d transactions, want %d", w.name, n, 2*transactions)
		}
		if w.polls.Load() < 20 {
			t.Errorf("%s was looked at only %d times", w.name, w.polls.Load())
		}
	}
	if n := d.checkAudit(writers); n > 0 {
		t.Errorf("%d transactions were applied twice", n)
	}
}

// sharedUpdate gives the shared group a title.
func sharedUpdate(title string) string {
	return fmt.Sprintf(`UPDATE todos SET title = '%s' WHERE id IN (SELECT id FROM todos WHERE id::text LIKE '%s%%' ORDER BY id FOR UPDATE)`,
		title, strings.TrimSuffix(groupID(0, 0), "000000"))
}
