package clientsdk

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

// TestModel generates so many histories of about so many steps.
const (
	modelHistories = 2000
	modelSteps     = 60
)

var modelSchema = Schema{Tables: []Table{
	{Name: "a", Columns: []Column{{Name: "v", Type: Integer}, {Name: "w", Type: Integer}}, Indexes: []Index{{Name: "v", Columns: []IndexColumn{{Name: "v"}}}}},
	{Name: "b", Columns: []Column{{Name: "v", Type: Integer}, {Name: "w", Type: Integer}}},
}}

type rowName struct{ typ, id string }

// model runs the real machine and the real store against a simulated server,
// and keeps beside them what readers must see: for each bucket the fold of what
// was last published, the version with the greatest op id on top, and over it
// the device's own writes.
type model struct {
	t     *rapid.T
	ctx   context.Context
	srv   *simServer
	ses   *simSession
	store *store
	apply applier
	down  *machine.Downlink

	published map[string]millrace.Reduced // by bucket; dropped ones under a name of their own
	complete  map[string]millrace.Reduced // at the newest full completion
	overlay   map[rowName]*string         // own writes; nil: deleted
	drops     int
	// wrong names the buckets stored with damage, damaged those with a damaged
	// line that is not staged yet.
	wrong, damaged map[string]bool
	full           int // full publications seen
	value          int

	asked, askedAt int64 // the request for a write checkpoint under way
}

// TestModel checks S1 to S9 of SPEC.md on generated histories.
func TestModel(t *testing.T) {
	n := modelHistories
	if testing.Short() || raceDetector {
		n = modelHistories / 20 // make test runs them all without the detector
	}
	for name, value := range map[string]int{"rapid.checks": n, "rapid.steps": modelSteps} {
		f := flag.Lookup(name)
		if f.Value.String() == f.DefValue {
			if err := f.Value.Set(fmt.Sprint(value)); err != nil {
				t.Fatal(err)
			}
			defer f.Value.Set(f.DefValue) //nolint:errcheck // the flag's own default
		}
	}
	st := testStore(t, modelSchema)
	st.pruneAfter = 6
	rapid.Check(t, func(rt *rapid.T) {
		if err := st.clear(context.Background(), false); err != nil {
			rt.Fatal(err)
		}
		m := &model{t: rt, ctx: context.Background(), srv: newSimServer(), store: st,
			apply:     applier{store: st, verify: rapid.Bool().Draw(rt, "verify")},
			down:      &machine.Downlink{Backoff: machine.Backoff{Min: time.Second, Max: time.Minute}},
			published: map[string]millrace.Reduced{}, overlay: map[rowName]*string{},
			wrong: map[string]bool{}, damaged: map[string]bool{}}
		m.run()
	})
}

var bucketNames = []string{"p0", "p1", "p3a", "p3b"}

func (m *model) run() {
	for i, name := range bucketNames {
		m.srv.buckets[name] = &simBucket{name: name, priority: []int{0, 1, 3, 3}[i]}
		m.srv.granted[name] = rapid.Bool().Draw(m.t, "granted")
	}
	for name, ok := range m.srv.granted {
		if !ok {
			delete(m.srv.granted, name)
		}
	}
	m.step(machine.Connect{})
	m.t.Repeat(map[string]func(*rapid.T){
		"source":    m.sourceWrites,
		"compact":   m.compacts,
		"grant":     m.grants,
		"line":      m.line,
		"lines":     m.lines,
		"reconnect": m.reconnects,
		"restart":   m.restarts,
		"write":     m.writes,
		"upload":    m.uploads,
		"answer":    m.answers,
		"line more": m.lines,
		"replicate": func(*rapid.T) { m.srv.replicate() },
		"":          func(*rapid.T) { m.check() },
	})
	m.settle()
}

// settle lets everything come to rest: then the client must equal the server.
func (m *model) settle() {
	for range 50 {
		for len(m.srv.lag) > 0 {
			m.srv.replicate()
		}
		m.uploads(m.t)
		m.answers(m.t)
		m.finish()
		m.check()
		if m.rested() {
			break
		}
	}
	if !m.rested() {
		m.t.Fatalf("the client does not come to rest: overlay %v, %v, pending %v", m.overlay, m.ses, m.state().pending)
	}
	want := map[rowName]string{}
	m.serverRows(want)
	if diff := cmp.Diff(want, m.visible(), cmp.AllowUnexported(rowName{})); diff != "" {
		m.t.Fatalf("at rest the client differs from the server (-server +client):\n%s", diff)
	}
	if m.full == 0 {
		m.t.Fatal("nothing was ever published")
	}
}

func (m *model) rested() bool {
	return len(m.overlay) == 0 && m.ses != nil && m.ses.done && m.ses.move(false) == nil && !m.state().pending
}

func (m *model) state() (st syncState) {
	err := m.store.write(m.ctx, false, func(t *txn) (err error) { st, err = t.state(); return err })
	if err != nil {
		m.t.Fatal(err)
	}
	return st
}

// sourceWrites changes rows on the server.
func (m *model) sourceWrites(t *rapid.T) {
	for range rapid.IntRange(1, 6).Draw(t, "ops") {
		bucket := rapid.SampledFrom(bucketNames).Draw(t, "bucket")
		typ := rapid.SampledFrom([]string{"a", "b", "hidden"}).Draw(t, "type")
		id := rapid.SampledFrom([]string{"r0", "r1"}).Draw(t, "id")
		subkey := rapid.SampledFrom([]string{"", "", "k1"}).Draw(t, "subkey")
		if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
			m.srv.remove(bucket, typ, id, subkey)
			continue
		}
		m.value++
		m.srv.put(bucket, typ, id, subkey, fmt.Sprintf(`{"id":"%s","v":%d,"x":1}`, id, m.value))
	}
}

func (m *model) compacts(t *rapid.T) {
	m.srv.compact(rapid.SampledFrom(bucketNames).Draw(t, "bucket"), rapid.Bool().Draw(t, "clear"))
}

func (m *model) grants(t *rapid.T) {
	name := rapid.SampledFrom(bucketNames).Draw(t, "bucket")
	if m.srv.granted[name] {
		delete(m.srv.granted, name)
	} else {
		m.srv.granted[name] = true
	}
}

// line sends one line, or a damaged one.
func (m *model) line(t *rapid.T) {
	if m.ses == nil {
		return
	}
	var l protocol.Line
	if m.ses.first || m.ses.stale() || rapid.IntRange(0, 4).Draw(t, "move") == 0 {
		l = m.ses.move(rapid.IntRange(0, 3).Draw(t, "whole") == 0)
	} else {
		l = m.ses.next(rapid.IntRange(1, 4).Draw(t, "page"), rapid.Bool().Draw(t, "partials"))
	}
	if l == nil {
		return
	}
	if d, ok := l.(*protocol.Data); ok && rapid.IntRange(0, 12).Draw(t, "damage") == 0 {
		m.damage(t, d)
	}
	m.deliver(l)
}

// damage changes what the client gets in a way it must notice: the content of
// an op, or an op that is missing.
func (m *model) damage(t *rapid.T, d *protocol.Data) {
	d.Ops = append([]millrace.Op(nil), d.Ops...)
	i := rapid.IntRange(0, len(d.Ops)-1).Draw(t, "op")
	m.damaged[d.Bucket] = true
	if m.apply.verify && d.Ops[i].Kind == millrace.OpPut {
		d.Ops[i].Data = strings.Replace(d.Ops[i].Data, `"x":1`, `"x":2`, 1)
		return
	}
	d.Ops = append(d.Ops[:i], d.Ops[i+1:]...)
}

func (m *model) lines(t *rapid.T) {
	for range rapid.IntRange(1, 8).Draw(t, "lines") {
		m.line(t)
	}
}

// finish brings the session to the end of the newest checkpoint.
func (m *model) finish() {
	for range 200 {
		if m.ses == nil {
			m.step(machine.TimerFired{Attempt: m.down.Attempt})
			continue
		}
		var l protocol.Line
		if m.ses.first || m.ses.stale() || m.ses.done {
			l = m.ses.move(false)
		} else {
			l = m.ses.next(100, false)
		}
		if l == nil {
			return
		}
		m.deliver(l)
	}
}

func (m *model) reconnects(t *rapid.T) {
	if m.ses == nil {
		m.step(machine.TimerFired{Attempt: m.down.Attempt})
		return
	}
	if rapid.Bool().Draw(t, "lost") {
		m.discard()
	} else if e := m.flush(); e != nil {
		m.step(e)
		return
	}
	m.step(machine.Ended{Attempt: m.down.Attempt, Err: errors.New("cut")})
}

// restarts kills the process: what is not in the tables is gone.
func (m *model) restarts(*rapid.T) {
	m.discard()
	m.ses, m.asked = nil, 0
	m.store.buckets = nil
	m.down = &machine.Downlink{Backoff: m.down.Backoff}
	m.step(machine.Connect{})
}

// writes changes rows locally, several in one transaction.
func (m *model) writes(t *rapid.T) {
	now := m.visible()
	after := maps.Clone(m.overlay)
	err := m.store.local(m.ctx, func(tx *Tx) error {
		for range rapid.IntRange(1, 3).Draw(t, "writes") {
			n := rowName{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "type"), rapid.SampledFrom([]string{"r0", "r1", "new"}).Draw(t, "id")}
			if err := m.localWrite(t, tx, now, after, n); err != nil {
				return err
			}
		}
		if rapid.IntRange(0, 5).Draw(t, "rollback") == 0 {
			return errRolledBack
		}
		return nil
	})
	switch {
	case err == nil:
		m.overlay = after
	case !errors.Is(err, errRolledBack):
		m.t.Fatal(err)
	}
}

var errRolledBack = errors.New("rolled back")

func (m *model) localWrite(t *rapid.T, tx *Tx, now map[rowName]string, after map[rowName]*string, n rowName) error {
	m.value++
	have, exists := now[n]
	switch {
	case !exists:
		if _, err := tx.Execute(m.ctx, `INSERT INTO `+n.typ+` (id, v) VALUES (?, ?)`, n.id, m.value); err != nil {
			return err
		}
		data := fmt.Sprintf(`{"v":%d}`, m.value)
		now[n], after[n] = data, &data
	case rapid.Bool().Draw(t, "delete"):
		if _, err := tx.Execute(m.ctx, `DELETE FROM `+n.typ+` WHERE id = ?`, n.id); err != nil {
			return err
		}
		delete(now, n)
		after[n] = nil
	default:
		if _, err := tx.Execute(m.ctx, `UPDATE `+n.typ+` SET v = ? WHERE id = ?`, m.value, n.id); err != nil {
			return err
		}
		data := merge(m.t, have, map[string]any{"v": m.value})
		now[n], after[n] = data, &data
	}
	return nil
}

// uploads sends all waiting transactions to the backend and asks for a write
// checkpoint, as the upload half does.
func (m *model) uploads(t *rapid.T) {
	for {
		tx, err := (&DB{store: m.store}).NextTransaction(m.ctx)
		if err != nil {
			m.t.Fatal(err)
		}
		if tx == nil {
			break
		}
		refuse := rapid.IntRange(0, 3).Draw(t, "refuse") == 0
		m.srv.accepted++
		m.srv.lag = append(m.srv.lag, simEffect{func() {
			for _, op := range tx.Ops {
				if !refuse {
					m.backend(op)
				}
			}
		}})
		if err := tx.Complete(m.ctx); err != nil {
			m.t.Fatal(err)
		}
	}
	g, err := m.store.gate(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	if g.Unacknowledged && m.asked == 0 {
		m.asked, m.askedAt = m.srv.requestCheckpoint(), g.Last
	}
}

// answers lets the server's answer to the request for a write checkpoint arrive:
// perhaps after more writes, perhaps after a completion that has the number.
func (m *model) answers(*rapid.T) {
	if m.asked == 0 {
		return
	}
	g, err := m.store.gate(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	set, err := m.store.setTarget(m.ctx, m.asked, m.askedAt)
	if want := g.Queued == 0 && g.Last == m.askedAt; err != nil || set != want {
		m.t.Fatalf("set target %d: %v instead of %v, %v", m.asked, set, want, err)
	}
	m.asked = 0
	published, err := m.store.publishPending(m.ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	if published {
		m.wasPublished(m.complete, true)
	}
}

// backend applies an uploaded op: rows of type a go to bucket p1, of b to p3a.
func (m *model) backend(op UploadOp) {
	bucket := map[string]string{"a": "p1", "b": "p3a"}[op.Type]
	have := "{}"
	if r, ok := m.srv.buckets[bucket].at(m.srv.op).Rows[millrace.RowIdentity{Type: op.Type, RowID: op.ID}]; ok {
		have = r.Data
	}
	if op.Kind == UploadDelete {
		m.srv.remove(bucket, op.Type, op.ID, "")
		return
	}
	var set map[string]any
	if err := json.Unmarshal(op.Data, &set); err != nil {
		m.t.Fatal(err)
	}
	m.srv.put(bucket, op.Type, op.ID, "", merge(m.t, have, set))
}

// merge sets keys of a JSON object, keeping the order of those that stay as
// SQLite's json_set does.
func merge(t *rapid.T, object string, set map[string]any) string {
	var have map[string]any
	if err := json.Unmarshal([]byte(object), &have); err != nil {
		t.Fatal(err)
	}
	maps.Copy(have, set)
	out, err := json.Marshal(have)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
