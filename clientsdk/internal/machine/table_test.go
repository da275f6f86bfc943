package machine

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

var rewrite = flag.Bool("rewrite", false, "write the transition tables into SPEC.md instead of comparing them")

const specFile = "../../SPEC.md"

var errTest = errors.New("test")

var testTarget = func() *Target {
	return &Target{OpID: 10, WriteCheckpoint: 1, Buckets: map[string]protocol.Bucket{"b": {Name: "b", Priority: 1}}}
}

// inPhase is a download half in a phase, as it would be there.
func inPhase(p Phase) *Downlink {
	d := &Downlink{Backoff: Backoff{Min: time.Second, Max: time.Minute}, Phase: p, Attempt: 7, Wanted: 1, Sent: 1, Opened: 1}
	switch p {
	case Syncing:
		d.Connected, d.InBand, d.Target = true, true, testTarget()
	case Waiting:
		d.Failures, d.Err = 1, errTest
	}
	return d
}

type downRow struct {
	name  string
	setup func(*Downlink)
	event Event
}

func line(l protocol.Line) Event { return Received{7, l} }

func overHTTP(d *Downlink)  { d.InBand = false }
func noTarget(d *Downlink)  { d.Target = nil }
func refreshes(d *Downlink) { d.Refreshing, d.Stale = true, true }

var downRows = []downRow{
	{"Connect", nil, Connect{}},
	{"Disconnect", nil, Disconnect{}},
	{"SubscriptionsChanged, newer, in-band", nil, SubscriptionsChanged{2}},
	{"SubscriptionsChanged, newer, HTTP", overHTTP, SubscriptionsChanged{2}},
	{"SubscriptionsChanged, not newer", nil, SubscriptionsChanged{1}},
	{"CredentialsReady", nil, CredentialsReady{7}},
	{"CredentialsReady, refreshing, in-band", refreshes, CredentialsReady{7}},
	{"CredentialsReady, refreshing, HTTP", func(d *Downlink) { refreshes(d); overHTTP(d) }, CredentialsReady{7}},
	{"CredentialsFailed", nil, CredentialsFailed{7, errTest}},
	{"CredentialsFailed, refreshing", refreshes, CredentialsFailed{7, errTest}},
	{"Opened", nil, Opened{7, true}},
	{"Opened, list changed meanwhile, in-band", func(d *Downlink) { d.Wanted = 2 }, Opened{7, true}},
	{"Opened, list changed meanwhile, HTTP", func(d *Downlink) { d.Wanted = 2 }, Opened{7, false}},
	{"checkpoint", nil, line(&protocol.Checkpoint{LastOpID: 11, Buckets: []protocol.Bucket{{Name: "c"}}})},
	{"checkpoint, first", noTarget, line(&protocol.Checkpoint{LastOpID: 9})},
	{"checkpoint, going back", nil, line(&protocol.Checkpoint{LastOpID: 9})},
	{"checkpoint_diff", nil, line(&protocol.CheckpointDiff{LastOpID: 11})},
	{"checkpoint_diff, first", noTarget, line(&protocol.CheckpointDiff{LastOpID: 11})},
	{"checkpoint_diff, going back", nil, line(&protocol.CheckpointDiff{LastOpID: 9})},
	{"data", nil, line(&protocol.Data{Bucket: "b", Ops: []millrace.Op{{ID: 10}}})},
	{"data, before a checkpoint", noTarget, line(&protocol.Data{Bucket: "b"})},
	{"data, bucket not in the checkpoint", nil, line(&protocol.Data{Bucket: "x"})},
	{"data, beyond the checkpoint", nil, line(&protocol.Data{Bucket: "b", Ops: []millrace.Op{{ID: 11}}})},
	{"partial_checkpoint_complete", nil, line(protocol.PartialCheckpointComplete{LastOpID: 10, Priority: 1})},
	{"partial_checkpoint_complete, other op id", nil, line(protocol.PartialCheckpointComplete{LastOpID: 8})},
	{"partial_checkpoint_complete, first", noTarget, line(protocol.PartialCheckpointComplete{})},
	{"checkpoint_complete", nil, line(protocol.CheckpointComplete{LastOpID: 10})},
	{"checkpoint_complete, other op id", nil, line(protocol.CheckpointComplete{LastOpID: 8})},
	{"checkpoint_complete, first", noTarget, line(protocol.CheckpointComplete{})},
	{"token_expires_in > 30", nil, line(protocol.TokenExpiresIn(31))},
	{"token_expires_in 1 to 30", nil, line(protocol.TokenExpiresIn(30))},
	{"token_expires_in 1 to 30, refreshing", refreshes, line(protocol.TokenExpiresIn(20))},
	{"token_expires_in ≤ 0", nil, line(protocol.TokenExpiresIn(0))},
	{"error, not fatal", nil, line(&protocol.StreamError{Code: "PSYNC_S2305"})},
	{"error, fatal", nil, line(&protocol.StreamError{Code: "PSYNC_S2003", Fatal: true})},
	{"unknown line", nil, line(&protocol.Unknown{Key: "new"})},
	{"any line of an earlier attempt", nil, Received{6, protocol.TokenExpiresIn(0)}},
	{"Ended, lost", nil, Ended{7, EndLost, errTest}},
	{"Ended, unauthorized", nil, Ended{7, EndUnauthorized, errTest}},
	{"Ended, overloaded", nil, Ended{7, EndOverloaded, errTest}},
	{"Ended, of an earlier attempt", nil, Ended{6, EndLost, errTest}},
	{"Applied, full", nil, Applied{7, 10, true, true}},
	{"Applied, partial", nil, Applied{7, 10, false, true}},
	{"Corrupt", nil, Corrupt{7, []string{"b"}, errTest}},
	{"StorageFailed", nil, StorageFailed{7, errTest}},
	{"TimerFired", nil, TimerFired{7}},
	{"TimerFired, of an earlier attempt", nil, TimerFired{6}},
}

func cell(before, after string, actions []Action, changed bool) string {
	var parts []string
	if before != after {
		parts = append(parts, "**"+after+"**")
	}
	for _, a := range actions {
		parts = append(parts, reflect.TypeOf(a).Name())
	}
	switch {
	case len(parts) > 0:
		return strings.Join(parts, ", ")
	case changed:
		return "noted"
	}
	return "–"
}

func downTable() string {
	var b strings.Builder
	b.WriteString("| event | offline | authorizing | opening | syncing | waiting |\n|---|---|---|---|---|---|\n")
	for _, r := range downRows {
		fmt.Fprintf(&b, "| %s |", r.name)
		for p := Offline; p <= Waiting; p++ {
			d := inPhase(p)
			if r.setup != nil {
				r.setup(d)
			}
			before := *d
			if d.Target != nil {
				before.Target = testTarget()
			}
			actions := d.Step(r.event)
			fmt.Fprintf(&b, " %s |", cell(p.String(), d.Phase.String(), actions, !reflect.DeepEqual(before, *d)))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

type upRow struct {
	name  string
	setup func(*Uplink)
	event UploadEvent
}

var upRows = []upRow{
	{"Start", nil, Start{}},
	{"Stop", nil, Stop{}},
	{"Wrote", nil, Wrote{}},
	{"StreamUp", nil, StreamUp{}},
	{"Held, asked on this stream", nil, Held{3}},
	{"Held, asked on an earlier stream", nil, Held{4}},
	{"Inspected, queue not empty", nil, Inspected{Round: 7, Queued: 2, Head: 5}},
	{"Inspected, same entry as before the upload", func(u *Uplink) { u.Head = 5 }, Inspected{Round: 7, Queued: 2, Head: 5}},
	{"Inspected, empty, write checkpoint not asked for", nil, Inspected{Round: 7, Last: 9, Unacknowledged: true}},
	{"Inspected, empty, to be asked for again", func(u *Uplink) { u.Renew = true }, Inspected{Round: 7, Last: 9}},
	{"Inspected, empty, asked for", nil, Inspected{Round: 7, Last: 9}},
	{"Inspected, empty after an upload, asked for", func(u *Uplink) { u.Head = 5 }, Inspected{Round: 7, Last: 9}},
	{"Inspected, empty, but written meanwhile", func(u *Uplink) { u.Again = true }, Inspected{Round: 7, Last: 9}},
	{"UploadReturned", nil, UploadReturned{7}},
	{"UploadFailed", nil, UploadFailed{7, errTest}},
	{"CheckpointReady", nil, CheckpointReady{7, 12, 3}},
	{"CheckpointFailed", nil, CheckpointFailed{7, errTest}},
	{"TargetSet, set", nil, TargetSet{7, true}},
	{"TargetSet, written meanwhile", nil, TargetSet{7, false}},
	{"LocalFailed", nil, LocalFailed{7, errTest}},
	{"RetryFired", nil, RetryFired{7}},
	{"any result of an earlier round", nil, UploadFailed{6, errTest}},
}

func upTable() string {
	var b strings.Builder
	b.WriteString("| event | off | idle | checking | uploading | requesting | settling | waiting |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range upRows {
		fmt.Fprintf(&b, "| %s |", r.name)
		for p := UploadOff; p <= UploadWaiting; p++ {
			u := &Uplink{Backoff: Backoff{Min: time.Second, Max: time.Minute}, Stalled: errTest, Phase: p, Round: 7, AskedOn: 3}
			if r.setup != nil {
				r.setup(u)
			}
			before := *u
			actions := u.Step(r.event)
			fmt.Fprintf(&b, " %s |", cell(p.String(), u.Phase.String(), actions, before != *u))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestTransitionTables: SPEC.md shows exactly what the code does.
func TestTransitionTables(t *testing.T) {
	text, err := os.ReadFile(specFile)
	if err != nil {
		t.Fatal(err)
	}
	spec := string(text)
	for name, table := range map[string]string{"downlink": downTable(), "uplink": upTable()} {
		begin, end := "<!-- "+name+" table -->\n", "<!-- end of "+name+" table -->"
		head, rest, ok := strings.Cut(spec, begin)
		have, tail, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("SPEC.md has no place for the %s table", name)
		}
		if have == table {
			continue
		}
		if !*rewrite {
			t.Errorf("the %s table in SPEC.md is not what the code does; read the difference, then run with -rewrite. It should be:\n%s", name, table)
		}
		spec = head + begin + table + end + tail
	}
	if *rewrite {
		if err := os.WriteFile(specFile, []byte(spec), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
