package clientsdk

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// script builds a vector.
type script struct {
	v    vector
	srv  *simServer
	ses  *simSession
	nums int
}

func (s *script) add(step vectorStep) *script {
	s.v.Steps = append(s.v.Steps, step)
	return s
}

func (s *script) line(l protocol.Line) *script { return s.add(vectorStep{Line: l.AppendLine(nil)}) }

// connect opens a stream; at is "bucket=after …".
func (s *script) connect(at string) *script {
	want := []vectorPosition{}
	var ps []position
	for _, f := range strings.Fields(at) {
		name, after, _ := strings.Cut(f, "=")
		want = append(want, vectorPosition{name, after})
		n, _ := strconv.ParseInt(after, 10, 64)
		ps = append(ps, position{name, millrace.OpID(n)})
	}
	sort.Slice(want, func(i, j int) bool { return want[i].Name < want[j].Name })
	s.ses = s.srv.connect(ps)
	return s.add(vectorStep{Connect: &want})
}

// checkpoint sends the newest checkpoint, as a diff where possible.
func (s *script) checkpoint() *script { return s.line(s.ses.move(false)) }

// page sends up to n ops of the next bucket; with partials, a partial
// completion where it belongs.
func (s *script) page(n int) *script { return s.line(s.ses.next(n, true)) }

// rest sends everything up to the completion.
func (s *script) rest() *script {
	for !s.ses.done {
		s.line(s.ses.next(100, false))
	}
	return s
}

func (s *script) put(bucket, id, data string) *script {
	s.srv.put(bucket, "todos", id, "", data)
	return s
}

func (s *script) server(change func(*simServer)) *script {
	change(s.srv)
	return s
}

// expect: rows are "id=json" of todos, or "type/id=json".
func (s *script) expect(open bool, rows ...string) *script {
	e := vectorExpectation{Rows: map[string]map[string]json.RawMessage{}, Open: open}
	for _, r := range rows {
		name, data, _ := strings.Cut(r, "=")
		typ, id, ok := strings.Cut(name, "/")
		if !ok {
			typ, id = "todos", name
		}
		if e.Rows[typ] == nil {
			e.Rows[typ] = map[string]json.RawMessage{}
		}
		e.Rows[typ][id] = json.RawMessage(data)
	}
	return s.add(vectorStep{Expect: &e})
}

func patch(id, data string) UploadOp {
	return UploadOp{Kind: UploadPatch, Type: "todos", ID: id, Data: json.RawMessage(data)}
}

func (s *script) write(ops ...UploadOp) *script { return s.add(vectorStep{Write: ops}) }

func (s *script) uploaded(ops ...UploadOp) *script {
	if ops == nil {
		ops = []UploadOp{}
	}
	return s.add(vectorStep{Uploaded: &ops})
}

func (s *script) writeCheckpoint() *script {
	return s.add(vectorStep{WriteCheckpoint: strconv.FormatInt(s.srv.requestCheckpoint(), 10)})
}

const (
	milk  = `{"title":"Milk","done":0}`
	bread = `{"title":"Bread","done":0}`
	oats  = `{"title":"Oats","done":1}`
)

var scenarios = map[string]struct {
	note  string
	build func(*script)
}{
	"first-sync": {"Nothing is seen before the completion; afterwards everything.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t2", bread).connect("").checkpoint().page(1).expect(true).page(1).expect(true).
			rest().expect(true, "t1="+milk, "t2="+bread)
	}},
	"update-and-remove": {"A later PUT replaces, a REMOVE ends a row; a REMOVE of an unknown row does nothing.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t2", bread).connect("").checkpoint().rest()
		s.put("a", "t1", oats).server(func(x *simServer) { x.remove("a", "todos", "t2", ""); x.remove("a", "todos", "t9", "") })
		s.checkpoint().page(100).expect(true, "t1="+milk, "t2="+bread).rest().expect(true, "t1="+oats)
	}},
	"two-buckets": {"A row in two buckets: the greatest op id shows; dropping that bucket shows the other's version.", func(s *script) {
		s.put("a", "t1", milk).put("b", "t1", oats).connect("").checkpoint().rest().expect(true, "t1="+oats)
		s.server(func(x *simServer) { delete(x.granted, "b") }).checkpoint().expect(true, "t1="+oats).rest().expect(true, "t1="+milk)
	}},
	"subkeys": {"Two source rows with one id in one bucket: removing one shows the other.", func(s *script) {
		s.server(func(x *simServer) {
			x.put("a", "todos", "t1", "1/x", milk)
			x.put("a", "todos", "t1", "1/y", oats)
		}).connect("").checkpoint().rest().expect(true, "t1="+oats)
		s.server(func(x *simServer) { x.remove("a", "todos", "t1", "1/y") }).checkpoint().rest().expect(true, "t1="+milk)
	}},
	"unknown-type": {"Rows of types the app does not name are kept.", func(s *script) {
		s.server(func(x *simServer) { x.put("a", "later", "x1", "", `{"n":1}`) }).connect("").checkpoint().rest().expect(true, `later/x1={"n":1}`)
	}},
	"resume": {"A cut download goes on where it stopped, also after a restart of the app.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t2", bread).put("a", "t3", oats).connect("").checkpoint().page(1).add(vectorStep{Cut: true}).expect(false)
		s.connect("a=1").checkpoint().page(1).add(vectorStep{Restart: true}).connect("a=2").checkpoint().rest().
			expect(true, "t1="+milk, "t2="+bread, "t3="+oats)
	}},
	"position-after-completion": {"After a full completion every bucket stands at the checkpoint, changed or not.", func(s *script) {
		s.put("a", "t1", milk).put("b", "t2", bread).connect("").checkpoint().rest().put("b", "t2", oats).checkpoint().rest().
			add(vectorStep{Cut: true}).connect("a=3 b=3").checkpoint().rest().expect(true, "t1="+milk, "t2="+oats)
	}},
	"superseded-checkpoint": {"A checkpoint that is replaced before it was complete loses nothing.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t2", bread).connect("").checkpoint().page(1).put("a", "t1", oats).checkpoint().expect(true).
			rest().expect(true, "t1="+oats, "t2="+bread)
	}},
	"move": {"Compaction leaves MOVEs: their checksums count, their rows do not.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t1", oats).put("a", "t2", bread).server(func(x *simServer) { x.compact("a", false) }).
			connect("").checkpoint().rest().expect(true, "t1="+oats, "t2="+bread)
	}},
	"clear-for-a-new-client": {"A compacted history begins with a CLEAR that carries the sum of what it replaces.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t1", bread).put("a", "t1", oats).server(func(x *simServer) { x.compact("a", true) }).
			connect("").checkpoint().rest().expect(true, "t1="+oats)
	}},
	"clear-for-an-old-client": {"A CLEAR voids what the client holds up to its op id, staged or published, but only with the next publication.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t2", bread).connect("").checkpoint().rest()
		s.server(func(x *simServer) {
			x.remove("a", "todos", "t1", "")
			x.put("a", "todos", "t2", "", oats)
			x.put("a", "todos", "t3", "", milk)
			x.remove("a", "todos", "t2", "")
			x.compact("a", true)
		}).checkpoint().page(1).expect(true, "t1="+milk, "t2="+bread).rest().expect(true, "t3="+milk)
	}},
	"bucket-removed-and-back": {"A removed bucket that comes back starts from nothing; its rows stay until a full completion says otherwise.", func(s *script) {
		s.put("a", "t1", milk).put("b", "t2", bread).connect("").checkpoint().rest()
		s.server(func(x *simServer) { delete(x.granted, "b") }).checkpoint().expect(true, "t1="+milk, "t2="+bread)
		s.server(func(x *simServer) { x.granted["b"] = true }).put("b", "t2", oats).checkpoint().expect(true, "t1="+milk, "t2="+bread).
			rest().expect(true, "t1="+milk, "t2="+oats)
	}},
	"priorities": {"A partial completion shows urgent buckets; the others stay as they were.", func(s *script) {
		s.put("low", "t1", milk).put("a", "t2", bread).connect("").checkpoint().rest()
		s.put("low", "t1", oats).put("a", "t2", oats).checkpoint().page(100).page(100).expect(true, "t1="+milk, "t2="+oats).
			rest().expect(true, "t1="+oats, "t2="+oats)
	}},
	"gate": {"Own writes stay in sight, and nothing else moves, until the server's state contains them.", func(s *script) {
		s.put("a", "t1", milk).put("a", "t2", bread).connect("").checkpoint().rest()
		s.write(patch("t1", `{"title":"Oat milk"}`)).expect(true, `t1={"title":"Oat milk","done":0}`, "t2="+bread)
		s.put("a", "t2", oats).checkpoint().rest().expect(true, `t1={"title":"Oat milk","done":0}`, "t2="+bread)
		s.uploaded(patch("t1", `{"title":"Oat milk"}`)).expect(true, `t1={"title":"Oat milk","done":0}`, "t2="+bread)
		s.server(func(x *simServer) { x.accepted++ }).writeCheckpoint().expect(true, `t1={"title":"Oat milk","done":0}`, "t2="+bread)
		s.server(func(x *simServer) {
			x.put("a", "todos", "t1", "", `{"title":"OAT MILK","done":0}`)
			x.replicated++
		}).checkpoint().rest().expect(true, `t1={"title":"OAT MILK","done":0}`, "t2="+oats)
	}},
	"gate-acknowledged-early": {"The completion that contains the write may come before its number is known: it is published then.", func(s *script) {
		s.put("a", "t1", milk).connect("").checkpoint().rest().write(patch("t1", `{"done":1}`)).uploaded(patch("t1", `{"done":1}`))
		s.put("a", "t1", `{"title":"Milk","done":1,"by":"server"}`).server(func(x *simServer) { x.writeCheckpoint = 4 }).checkpoint().rest().
			expect(true, `t1={"title":"Milk","done":1}`)
		s.add(vectorStep{WriteCheckpoint: "4"}).expect(true, `t1={"title":"Milk","done":1,"by":"server"}`)
	}},
	"write-refused": {"What the backend makes of a write wins, also if it ignored it.", func(s *script) {
		s.put("a", "t1", milk).connect("").checkpoint().rest()
		s.write(patch("t1", `{"done":1}`), UploadOp{Kind: UploadPut, Type: "todos", ID: "t2", Data: json.RawMessage(`{"title":"Mine"}`)}).
			write(UploadOp{Kind: UploadDelete, Type: "todos", ID: "t1"}).expect(true, `t2={"title":"Mine"}`)
		s.uploaded(patch("t1", `{"done":1}`), UploadOp{Kind: UploadPut, Type: "todos", ID: "t2", Data: json.RawMessage(`{"title":"Mine"}`)},
			UploadOp{Kind: UploadDelete, Type: "todos", ID: "t1"})
		s.writeCheckpoint().checkpoint().rest().expect(true, "t1="+milk)
	}},
	"urgent-passes-the-gate": {"A partial completion of priority 0 passes the gate, beneath own writes.", func(s *script) {
		s.put("urgent", "t1", milk).put("urgent", "t2", bread).put("a", "t3", milk).connect("").checkpoint().rest()
		s.write(patch("t1", `{"done":1}`))
		s.put("urgent", "t1", oats).put("urgent", "t2", oats).put("a", "t3", oats).checkpoint().page(100).page(100).
			expect(true, `t1={"title":"Milk","done":1}`, "t2="+oats, "t3="+milk).rest().
			expect(true, `t1={"title":"Milk","done":1}`, "t2="+oats, "t3="+milk)
	}},
	"bad-sum": {"A bucket whose sum differs is asked for from the start, alone; its rows stay meanwhile.", func(s *script) {
		s.put("a", "t1", milk).put("b", "t2", bread).connect("").checkpoint().rest().put("b", "t2", oats).put("b", "t3", milk)
		cp := s.ses.move(false).(*protocol.CheckpointDiff)
		s.line(cp)
		d := s.ses.next(100, false).(*protocol.Data)
		s.line(&protocol.Data{Bucket: d.Bucket, After: d.After, NextAfter: d.NextAfter, Ops: d.Ops[1:]}).
			line(protocol.CheckpointComplete{LastOpID: cp.LastOpID}).expect(false, "t1="+milk, "t2="+bread)
		s.connect("a=2").checkpoint().expect(true, "t1="+milk, "t2="+bread).rest().expect(true, "t1="+milk, "t2="+oats, "t3="+milk)
	}},
	"bad-op": {"An op that does not match its checksum is noticed at once.", func(s *script) {
		s.put("a", "t1", milk).put("b", "t2", bread).connect("").checkpoint().page(100)
		d := s.ses.next(100, false).(*protocol.Data)
		bad := *d
		bad.Ops = append([]millrace.Op(nil), d.Ops...)
		bad.Ops[0].Data = oats
		s.line(&bad).expect(false).connect("a=1").checkpoint().rest().expect(true, "t1="+milk, "t2="+bread)
	}},
	"protocol-broken": {"Lines in the wrong order end the stream and change nothing.", func(s *script) {
		s.put("a", "t1", milk).connect("").checkpoint().rest().add(vectorStep{Cut: true})
		s.connect("a=1").line(&protocol.CheckpointDiff{LastOpID: 5}).expect(false, "t1="+milk)
		s.connect("a=1").line(protocol.CheckpointComplete{LastOpID: 1}).expect(false, "t1="+milk)
		s.connect("a=1").checkpoint().line(&protocol.Data{Bucket: "x", Ops: []millrace.Op{}}).expect(false, "t1="+milk)
		s.connect("a=1").checkpoint().line(protocol.CheckpointComplete{LastOpID: 7}).expect(false, "t1="+milk)
		s.connect("a=1").checkpoint().line(&protocol.Checkpoint{LastOpID: 0}).expect(false, "t1="+milk)
	}},
}

func writeVectors(t *testing.T) {
	if err := os.MkdirAll(vectorDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, sc := range scenarios {
		srv := newSimServer()
		for bucket, priority := range map[string]int{"urgent": 0, "a": 1, "b": 1, "low": 3} {
			srv.buckets[bucket] = &simBucket{name: bucket, priority: priority}
		}
		s := &script{srv: srv, v: vector{Name: name, Note: sc.note}}
		// Only buckets a scenario uses are granted.
		probe := &script{srv: newSimServer()}
		for bucket, b := range srv.buckets {
			probe.srv.buckets[bucket] = &simBucket{name: bucket, priority: b.priority}
			probe.srv.granted[bucket] = true
		}
		sc.build(probe)
		for bucket, b := range probe.srv.buckets {
			if len(b.ops) > 0 {
				srv.granted[bucket] = true
			}
		}
		sc.build(s)
		text, err := json.MarshalIndent(&s.v, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(vectorDir, name+".json"), append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
