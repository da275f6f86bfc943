package clientsdk

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

// deliver hands a line to the machine and runs what it decides.
func (m *model) deliver(l protocol.Line) {
	m.step(machine.Received{Attempt: m.down.Attempt, Line: l})
}

// step runs the machine and does its actions, as the real loop does.
func (m *model) step(e machine.Event) {
	events := []machine.Event{e}
	for len(events) > 0 {
		e, events = events[0], events[1:]
		for _, a := range m.down.Step(e) {
			next, abort := m.act(a)
			if next != nil {
				events = append(events, next)
			}
			if abort {
				break
			}
		}
	}
}

func (m *model) act(a machine.Action) (next machine.Event, abort bool) {
	switch a := a.(type) {
	case machine.FetchCredentials:
		return machine.CredentialsReady{Attempt: a.Attempt}, false
	case machine.OpenStream:
		_, at, err := m.store.positions(m.ctx)
		if err != nil {
			m.t.Fatal(err)
		}
		m.ses = m.srv.connect(at)
		return machine.Opened{Attempt: a.Attempt}, false
	case machine.CloseStream:
		m.ses = nil
		m.discard()
		return nil, false
	case machine.StartTimer, machine.StopTimer:
		m.ses = nil
		return nil, false
	case machine.Stage:
		if !m.apply.add(a.Data) && m.value%3 != 0 {
			return nil, false
		}
		e := m.flush()
		return e, e != nil
	}
	if e := m.flush(); e != nil {
		return e, true
	}
	switch a := a.(type) {
	case machine.Begin:
		for _, name := range m.dropped(a) {
			m.drop(name)
		}
	case machine.DropBuckets:
		for _, name := range a.Names {
			m.drop(name)
		}
	}
	e := m.apply.run(m.ctx, m.down.Attempt, a)
	m.mayFail(e)
	if ap, ok := e.(machine.Applied); ok {
		c := a.(machine.Complete)
		m.checkGate(c, ap)
		states := map[string]millrace.Reduced{} // now: compaction may come before a late publication
		for _, b := range c.Buckets {
			states[b.Name] = m.srv.buckets[b.Name].at(c.OpID)
		}
		if c.Full {
			m.complete = states
		}
		if ap.Published {
			m.wasPublished(states, c.Full)
		}
	}
	return e, e != nil
}

// dropped lists the buckets a Begin ends.
func (m *model) dropped(a machine.Begin) []string {
	out := append([]string(nil), a.Removed...)
	if a.Whole {
		keep := map[string]bool{}
		for _, b := range a.Updated {
			keep[b.Name] = true
		}
		for _, name := range bucketNames {
			if !keep[name] {
				out = append(out, name)
			}
		}
	}
	return out
}

// drop: what was published of the bucket stays until the next full publication.
func (m *model) drop(name string) {
	delete(m.wrong, name)
	if r, ok := m.published[name]; ok {
		m.drops++
		m.published[fmt.Sprintf("dropped %d", m.drops)] = r
		delete(m.published, name)
	}
}

// mayFail: only what was damaged may be found wrong (S3).
func (m *model) mayFail(e machine.Event) {
	switch e := e.(type) {
	case machine.StorageFailed:
		m.t.Fatal(e.Err)
	case machine.Corrupt:
		for _, name := range e.Buckets {
			if !m.wrong[name] && !m.damaged[name] {
				m.t.Fatalf("undamaged data was refused: %v", e.Err)
			}
		}
	}
}

// flush stages what was collected, damage included.
func (m *model) flush() machine.Event {
	e := m.apply.flush(m.ctx, m.down.Attempt)
	m.mayFail(e)
	if e == nil {
		maps.Copy(m.wrong, m.damaged)
	}
	clear(m.damaged)
	return e
}

func (m *model) discard() {
	m.apply.discard()
	clear(m.damaged)
}

// checkGate: a completion is published exactly if the gate lets it through (S5).
func (m *model) checkGate(c machine.Complete, ap machine.Applied) {
	var queued, target, seen int64
	if err := m.store.readers.QueryRowContext(m.ctx, `SELECT (SELECT count(*) FROM mr_queue), target, seen FROM mr_state`).Scan(&queued, &target, &seen); err != nil {
		m.t.Fatal(err)
	}
	open := queued == 0 && target <= seen || !c.Full && c.Priority == 0
	if open != ap.Published {
		m.t.Fatalf("published %v with %d queued, target %d, seen %d", ap.Published, queued, target, seen)
	}
	if c.Full && ap.Published && m.srv.replicated < m.srv.needs {
		m.t.Fatalf("published over own writes that the server's state does not contain")
	}
}

// wasPublished moves the oracle to a published checkpoint.
func (m *model) wasPublished(states map[string]millrace.Reduced, full bool) {
	if full {
		m.full++
		m.published = map[string]millrace.Reduced{}
		m.overlay = map[rowName]*string{}
	}
	maps.Copy(m.published, states)
}

// check compares what readers see with the oracle (S1, S2, S4).
func (m *model) check() {
	want := map[rowName]string{}
	newest := map[rowName]millrace.OpID{}
	for _, r := range m.published {
		for id, op := range r.Rows {
			n := rowName{id.Type, id.RowID}
			if op.ID > newest[n] {
				newest[n], want[n] = op.ID, canonical(m.t, op.Data)
			}
		}
	}
	for n, data := range m.overlay {
		if data == nil {
			delete(want, n)
		} else {
			want[n] = canonical(m.t, *data)
		}
	}
	if diff := cmp.Diff(want, m.visible(), cmp.AllowUnexported(rowName{})); diff != "" {
		m.t.Fatalf("readers see something else (-want +got):\n%s\n%v", diff, m.ses)
	}
}

// serverRows adds what the server's state says the client is to have.
func (m *model) serverRows(out map[rowName]string) {
	newest := map[rowName]millrace.OpID{}
	for name := range m.srv.granted {
		for id, op := range m.srv.buckets[name].at(m.srv.op).Rows {
			n := rowName{id.Type, id.RowID}
			if op.ID > newest[n] {
				newest[n], out[n] = op.ID, canonical(m.t, op.Data)
			}
		}
	}
}

type fataler interface{ Fatal(...any) }

func canonical(t fataler, object string) string {
	var v any
	if err := json.Unmarshal([]byte(object), &v); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// visible reads the rows shown, in a transaction of its own.
func (m *model) visible() map[rowName]string {
	rows, err := m.store.readers.QueryContext(m.ctx, `SELECT type, id, data FROM mr_rows WHERE shown = 1`)
	if err != nil {
		m.t.Fatal(err)
	}
	defer rows.Close()
	out := map[rowName]string{}
	for rows.Next() {
		var n rowName
		var data string
		if err := rows.Scan(&n.typ, &n.id, &data); err != nil {
			m.t.Fatal(err)
		}
		if _, twice := out[n]; twice {
			m.t.Fatalf("%v is shown twice", n)
		}
		out[n] = canonical(m.t, data)
	}
	if err := rows.Err(); err != nil {
		m.t.Fatal(err)
	}
	return out
}
