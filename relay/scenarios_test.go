package relay_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

// The tests here are those of docs/reference/protocol-scenarios.md that need
// nothing else; their names begin with the number.

// Test5_5SupersededCheckpoint: something more urgent does not wait for the end of
// a long download; the diff goes on from what was sent, and nothing comes twice,
// which the client checks.
func Test5_5SupersededCheckpoint(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	for range 30 {
		side.Commit(func(tx *relaytest.Tx) {
			for i := range 1000 {
				tx.Put("global", "", "t", fmt.Sprint(i), fmt.Sprintf(`{"n":%d,"text":"so that it takes some pages to tell"}`, i))
			}
		})
	}
	c := relaytest.DialRSocket(t, srv.URL, srv.Token("alice"), relaytest.Request("c"), nil)
	if _, err := c.Next(); err != nil {
		t.Fatal(err)
	}
	// The client takes ten lines at a time: the download is not over.
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("urgent", "", "t", "u", `{}`) })
	lines := c.Until(cp.OpID)
	completions, partial := 0, false
	for _, l := range lines {
		switch l := l.(type) {
		case protocol.CheckpointComplete:
			completions++
		case protocol.PartialCheckpointComplete:
			partial = partial || l.Priority == 0
		}
	}
	if completions > 2 || !partial || len(c.Rows("global", "")) != 1000 || len(c.Rows("urgent", "")) != 1 {
		t.Errorf("%d completions, of priority 0 %v, %d rows", completions, partial, len(c.Rows("global", "")))
	}
}

// Test4_2QuietCheckpoints: a checkpoint that changes nothing for a client is not
// told; one that changes its write checkpoint alone is, with empty lists.
func Test4_2QuietCheckpoints(t *testing.T) {
	for how := range dials {
		t.Run(fmt.Sprint("transport ", how), func(t *testing.T) {
			side := relaytest.NewSidecar()
			srv := relaytest.Serve(t, side)
			c := dialAny(t, srv, how, "alice", "c", nil)
			c.Until(0)
			side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "bob", "t", "1", `{}`) })
			side.Commit(func(tx *relaytest.Tx) { tx.Grant("bob", "l1") })
			_, body := do(t, "POST", srv.URL+protocol.PathCheckpointRequest, "Bearer "+srv.Token("alice"), `{"client_id":"c","checkpoint_request_id":"5"}`)
			if body != `{"data":{"checkpoint_request_id":"5"}}`+"\n" {
				t.Fatal(body)
			}
			for c.Write != 5 {
				l, err := c.Next()
				if err != nil {
					t.Fatal(err)
				}
				switch l := l.(type) {
				case *protocol.CheckpointDiff:
					if l.WriteCheckpoint != 5 || len(l.UpdatedBuckets)+len(l.RemovedBuckets) != 0 {
						t.Errorf("diff %+v", l)
					}
				case *protocol.Data, *protocol.Checkpoint:
					t.Errorf("told %s", relaytest.Describe([]protocol.Line{l}))
				}
			}
		})
	}
}

// Test4_1FullCheckpointInMidStream: new sync rules give a full checkpoint, which
// replaces the state, and what stays is not sent again.
func Test4_1FullCheckpointInMidStream(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{}`) })
	c := dial(t, srv, srv.Token("alice"), relaytest.Request("c"), nil)
	c.Until(cp.OpID)
	side.Activate("")
	lines := c.Until(side.Head().OpID)
	if _, ok := lines[0].(*protocol.Checkpoint); !ok || len(lines) != 2 || len(c.Rows("mine", "alice")) != 1 {
		t.Errorf("after the activation\n%s", relaytest.Describe(lines))
	}
}

// Test6_1CompactedHistory: MOVE and CLEAR reach new clients and old ones, which
// end with the same rows and sums.
func Test6_1CompactedHistory(t *testing.T) {
	for how := range dials {
		t.Run(fmt.Sprint("transport ", how), func(t *testing.T) {
			side := relaytest.NewSidecar()
			srv := relaytest.Serve(t, side)
			first := side.Commit(func(tx *relaytest.Tx) {
				tx.Put("mine", "alice", "t", "gone", `{}`)
				tx.Put("mine", "alice", "t", "stays", `{"n":1}`)
			})
			old := dialAny(t, srv, how, "alice", "old", nil)
			old.Until(first.OpID)
			old.Close()
			last := side.Commit(func(tx *relaytest.Tx) {
				tx.Remove("mine", "alice", "t", "gone")
				tx.Put("mine", "alice", "t", "between", `{}`)
				tx.Put("mine", "alice", "t", "stays", `{"n":2}`)
			})
			side.Compact("mine", "alice")
			old = dialAny(t, srv, how, "alice", "old", old)
			fresh := dialAny(t, srv, how, "alice", "fresh", nil)
			for _, c := range []*relaytest.Client{old, fresh} {
				c.Until(last.OpID) // which compares the sums
				if got := c.Rows("mine", "alice"); len(got) != 2 || got["stays"] != `{"n":2}` {
					t.Errorf("rows %v", got)
				}
			}
		})
	}
}

// streamRules has a default stream, one with a parameter, and one of priority 1.
const streamRules = `config:
  edition: 3
streams:
  own:
    auto_subscribe: true
    query: SELECT * FROM todos WHERE owner = auth.user_id()
  project:
    query: SELECT * FROM todos WHERE project = subscription.parameter('id')
  urgent:
    priority: 1
    query: SELECT * FROM news WHERE owner = auth.user_id()
`

// Test4_1StreamsAndSubscriptions: why each bucket is included, at which priority,
// and the errors of each subscription, with the rules language itself.
func Test4_1StreamsAndSubscriptions(t *testing.T) {
	rules, err := relay.CompileRules(&millrace.RuleSet{ID: 1, Content: streamRules})
	if err != nil {
		t.Fatal(err)
	}
	resolve := func(s protocol.StreamSelection) relay.Resolved {
		t.Helper()
		r := rules.Resolve(relay.RulesRequest{Claims: []byte(`{"sub":"alice"}`), Streams: s})
		if pending := r.Pending(); len(pending) != 0 {
			t.Fatalf("lookups %v", pending)
		}
		got, err := r.Result()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := resolve(protocol.StreamSelection{IncludeDefaults: true, Subscriptions: []protocol.Subscription{
		{Stream: "project", Parameters: []byte(`{"id":"p1"}`), Priority: 0},
		{Stream: "own", Priority: 2},
		{Stream: "project", Parameters: []byte(`{"id":"p2"}`), Priority: protocol.DefaultPriority},
		{Stream: "project", Parameters: []byte(`{"id":"p1"}`), Priority: 2},
		{Stream: "nowhere", Priority: protocol.DefaultPriority},
		{Stream: "urgent", Priority: protocol.DefaultPriority},
	}})
	type bucket struct {
		Priority int
		Reasons  []protocol.Reason
	}
	var buckets []bucket
	for _, b := range got.Buckets {
		// In any order; here by default first.
		slices.SortFunc(b.Reasons, func(x, y protocol.Reason) int {
			return cmp.Or(-cmp.Compare(fmt.Sprint(x.Default), fmt.Sprint(y.Default)), cmp.Compare(x.Index, y.Index))
		})
		buckets = append(buckets, bucket{b.Priority, b.Reasons})
	}
	def := func(i int) protocol.Reason { return protocol.Reason{Default: true, Index: i} }
	sub := func(i int) protocol.Reason { return protocol.Reason{Index: i} }
	// The lowest number wins where several want the same bucket.
	want := []bucket{
		{2, []protocol.Reason{def(0), sub(1)}},
		{0, []protocol.Reason{sub(0), sub(3)}},
		{3, []protocol.Reason{sub(2)}},
		{1, []protocol.Reason{sub(5)}},
	}
	for _, w := range want {
		found := false
		for _, b := range buckets {
			found = found || fmt.Sprint(b) == fmt.Sprint(w)
		}
		if !found {
			t.Errorf("no bucket %+v among %+v", w, buckets)
		}
	}
	if len(buckets) != len(want) {
		t.Errorf("buckets %+v", buckets)
	}
	streams, err := json.Marshal(got.Streams)
	if err != nil {
		t.Fatal(err)
	}
	// One that does not exist is not listed; a default one stays one.
	if len(got.Streams) != 3 || got.Streams[0].Name != "own" || !got.Streams[0].IsDefault || got.Streams[1].Name != "project" || got.Streams[1].IsDefault || got.Streams[2].Name != "urgent" {
		t.Errorf("streams %s", streams)
	}

	// Without defaults, nothing comes by itself.
	got = resolve(protocol.StreamSelection{Subscriptions: []protocol.Subscription{{Stream: "own", Priority: protocol.DefaultPriority}}})
	if len(got.Buckets) != 1 || fmt.Sprint(got.Buckets[0].Reasons) != fmt.Sprint([]protocol.Reason{sub(0)}) || len(got.Streams) != 1 || !got.Streams[0].IsDefault {
		t.Errorf("without defaults %+v", got)
	}
}

// Test7_1CountersOfDevices: each device of a user has its own counter, and a
// client without an id has the user's; in both modes it is the same counter.
func Test7_1CountersOfDevices(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	token := "Bearer " + srv.Token("alice")
	legacy := func(device string) int64 {
		t.Helper()
		_, body := do(t, "GET", srv.URL+protocol.PathWriteCheckpoint+"?client_id="+device, token, "")
		id, err := protocol.DecodeWriteCheckpoint([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return id
	}
	request := func(device string, id int64) int64 {
		t.Helper()
		_, body := do(t, "POST", srv.URL+protocol.PathCheckpointRequest, token, string(protocol.AppendCheckpointRequest(nil, device, id)))
		held, err := protocol.DecodeCheckpointRequestAnswer([]byte(body))
		if err != nil {
			t.Fatalf("%s: %v", body, err)
		}
		return held
	}
	one := legacy("one")
	if next := legacy("one"); next <= one {
		t.Errorf("%d after %d", next, one)
	}
	if got := request("two", 1); got != 1 {
		t.Errorf("device two holds %d after its first request", got)
	}
	if got := request("two", 7); got != 7 {
		t.Errorf("device two holds %d, want 7", got)
	}
	if got := request("two", 3); got != 7 {
		t.Errorf("a lower number gives %d, want 7", got)
	}
	if got := request("two", 7); got != 7 {
		t.Errorf("the same number gives %d, want 7", got)
	}
	if got := legacy("two"); got <= 7 {
		t.Errorf("the next number is %d after 7", got)
	}
	nobody := legacy("")
	cp := side.Commit(func(*relaytest.Tx) {})
	c := dial(t, srv, srv.Token("alice"), relaytest.Request(""), nil)
	c.Until(cp.OpID)
	if c.Write != nobody {
		t.Errorf("without a device: told %d, want %d", c.Write, nobody)
	}
}

// Test4_1ErrorsOfOneSubscription: a subscription whose parameters cannot be
// evaluated is told so; others of the same stream, and its default, hold.
func Test4_1ErrorsOfOneSubscription(t *testing.T) {
	rules, err := relay.CompileRules(&millrace.RuleSet{ID: 1, Content: `config:
  edition: 3
streams:
  picked:
    auto_subscribe: true
    query: SELECT * FROM todos WHERE project IN (SELECT value FROM json_each(coalesce(subscription.parameter('ids'), '["home"]')))
`})
	if err != nil {
		t.Fatal(err)
	}
	resolve := func(subs ...string) relay.Resolved {
		t.Helper()
		s := protocol.StreamSelection{IncludeDefaults: true}
		for _, p := range subs {
			s.Subscriptions = append(s.Subscriptions, protocol.Subscription{Stream: "picked", Parameters: []byte(p), Priority: protocol.DefaultPriority})
		}
		r := rules.Resolve(relay.RulesRequest{Claims: []byte(`{"sub":"alice"}`), Streams: s})
		if pending := r.Pending(); len(pending) != 0 {
			t.Fatalf("lookups %v", pending)
		}
		got, err := r.Result()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	good, bad := `{"ids":"[\"a\",\"b\"]"}`, `{"ids":"not JSON"}`
	alone := resolve(good)
	if len(alone.Buckets) != 3 || len(alone.Streams) != 1 || len(alone.Streams[0].Errors) != 0 {
		t.Fatalf("without an error %+v", alone)
	}
	got := resolve(bad, good)
	if len(got.Buckets) != 3 || len(got.Streams) != 1 {
		t.Fatalf("beside an error %+v", got)
	}
	if errs := got.Streams[0].Errors; len(errs) != 1 || errs[0].Subscription != 0 || errs[0].Message == "" {
		t.Errorf("errors %+v", errs)
	}
	for _, b := range got.Buckets {
		if why := b.Reasons; len(why) != 1 || !why[0].Default && why[0].Index != 1 {
			t.Errorf("bucket %+v", b)
		}
	}
}
