package machine

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

func TestBackoff(t *testing.T) {
	b := Backoff{Min: time.Second, Max: 10 * time.Second}
	for failures, want := range []time.Duration{1, 1, 2, 4, 8, 10, 10} {
		if got := b.Delay(failures); got != want*time.Second {
			t.Errorf("after %d failures: %v, not %v", failures, got, want*time.Second)
		}
	}
	if got := b.Delay(1 << 40); got != b.Max {
		t.Errorf("after very many: %v", got)
	}
}

// TestStreamsVersions: a completion counts for the list of streams its target
// was made for (D6).
func TestStreamsVersions(t *testing.T) {
	d := inPhase(Opening)
	d.Step(Opened{7, true})
	d.Step(SubscriptionsChanged{5})
	d.Step(line(&protocol.Checkpoint{LastOpID: 1}))
	if d.Covered != 1 {
		t.Fatalf("covers %d before the server has echoed 5", d.Covered)
	}
	d.Step(line(&protocol.Checkpoint{LastOpID: 1, StreamsVersion: 5}))
	if d.Covered != 5 {
		t.Fatalf("covers %d", d.Covered)
	}
}

// TestFailuresReset: only a full completion shows that all is well (D3).
func TestFailuresReset(t *testing.T) {
	d := inPhase(Opening)
	d.Failures = 4
	d.Step(Opened{7, true})
	d.Step(line(&protocol.Checkpoint{LastOpID: 1}))
	d.Step(Applied{7, 1, false, true})
	if d.Failures != 4 {
		t.Fatal("a partial completion reset the failures")
	}
	d.Step(Applied{7, 1, true, false})
	if d.Failures != 0 {
		t.Fatal("a full completion did not reset the failures")
	}
}

// TestAsksAgain: a server that is not reached may have moved (D8).
func TestAsksAgain(t *testing.T) {
	d := &Downlink{Backoff: Backoff{Min: time.Second, Max: time.Minute}}
	d.Step(Connect{})
	for i := 1; i <= 4; i++ {
		d.Step(CredentialsReady{d.Attempt})
		d.Step(Ended{d.Attempt, EndLost, errTest})
		fetch := d.Step(TimerFired{d.Attempt})[0].(FetchCredentials)
		if fetch.Fresh != (i == 3) {
			t.Errorf("after %d failures: fresh %v", i, fetch.Fresh)
		}
	}
}

// TestDownlinkInvariants drives the download half with random events, right and
// wrong ones, and checks D1, D2 and D7 after each.
func TestDownlinkInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &Downlink{Backoff: Backoff{Min: time.Second, Max: time.Minute}}
		open, timer := 0, false // streams open or opening, and whether a timer runs
		last := 0               // newest attempt a stream was opened for
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			attempt := d.Attempt - rapid.IntRange(0, 1).Draw(t, "behind")
			e := randomEvent(t, attempt)
			phase := d.Phase
			if _, ok := e.(Ended); ok && attempt == d.Attempt && (phase == Opening || phase == Syncing) {
				open--
			}
			if f, ok := e.(TimerFired); ok && f.Attempt == d.Attempt && phase == Waiting {
				timer = false
			}
			for _, a := range d.Step(e) {
				switch a := a.(type) {
				case OpenStream:
					open++
					if a.Attempt <= last {
						t.Fatalf("attempt %d after %d", a.Attempt, last)
					}
					last = a.Attempt
				case CloseStream:
					open--
				case StartTimer:
					timer = true
					if a.Delay <= 0 {
						t.Fatalf("delay %v", a.Delay)
					}
				case StopTimer:
					timer = false
				case Stage, Complete, Begin, SendAck, SendToken, SendStreams:
					if d.Phase != Syncing {
						t.Fatalf("%T while %s", a, d.Phase)
					}
				}
			}
			streamPhase := d.Phase == Opening || d.Phase == Syncing
			if streamPhase != (open == 1) || open < 0 || open > 1 {
				t.Fatalf("%d streams while %s", open, d.Phase)
			}
			if timer != (d.Phase == Waiting) {
				t.Fatalf("timer %v while %s", timer, d.Phase)
			}
			if d.Phase != Syncing && (d.Target != nil || d.InBand || d.Refreshing) {
				t.Fatalf("%s with the leftovers of a stream: %+v", d.Phase, d)
			}
			if (d.Phase == Waiting || d.Phase == Offline) && d.Connected {
				t.Fatalf("connected while %s", d.Phase)
			}
		}
	})
}

func randomEvent(t *rapid.T, attempt int) Event {
	op := millrace.OpID(rapid.IntRange(0, 3).Draw(t, "op"))
	name := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "bucket")
	b := []protocol.Bucket{{Name: name}}
	lines := []protocol.Line{
		&protocol.Checkpoint{LastOpID: op, Buckets: b},
		&protocol.CheckpointDiff{LastOpID: op, UpdatedBuckets: b, RemovedBuckets: []string{"b"}},
		&protocol.Data{Bucket: name, Ops: []millrace.Op{{ID: op}}},
		protocol.CheckpointComplete{LastOpID: op},
		protocol.PartialCheckpointComplete{LastOpID: op},
		protocol.TokenExpiresIn(rapid.IntRange(-1, 60).Draw(t, "seconds")),
		&protocol.StreamError{Code: "PSYNC_S2101", Fatal: rapid.Bool().Draw(t, "fatal")},
		&protocol.Unknown{Key: "x"},
	}
	err := errors.New("x")
	return rapid.SampledFrom([]Event{
		Connect{}, Disconnect{}, CredentialsReady{attempt}, CredentialsReady{attempt}, CredentialsFailed{attempt, err},
		Opened{attempt, true}, Opened{attempt, false}, Ended{attempt, EndReason(rapid.IntRange(0, 4).Draw(t, "reason")), err},
		Applied{attempt, op, true, true}, Corrupt{attempt, []string{name}, err}, StorageFailed{attempt, err}, TimerFired{attempt},
		SubscriptionsChanged{int64(op)},
		Received{attempt, rapid.SampledFrom(lines).Draw(t, "line")}, Received{attempt, rapid.SampledFrom(lines).Draw(t, "line2")},
		Received{attempt, lines[0]},
	}).Draw(t, "event")
}

// TestUplinkInvariants: never two calls at a time, a failing upload waits, and
// nothing written is forgotten (U1, U2, U4).
func TestUplinkInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := &Uplink{Backoff: Backoff{Min: time.Second, Max: time.Minute}, Stalled: errors.New("stalled")}
		queued, last, unacked := 0, int64(0), false
		busy, timer := false, false
		var pending []UploadEvent
		run := func(actions []Action) {
			for _, a := range actions {
				switch a := a.(type) {
				case Inspect:
					head := int64(0)
					if queued > 0 {
						head = last - int64(queued) + 1
					}
					pending = append(pending, Inspected{a.Round, int64(queued), head, last, unacked, 0})
				case Upload, RequestCheckpoint:
					if busy {
						t.Fatal("two calls at a time")
					}
					busy = true
				case CancelUpload:
					busy = false
				case SetTarget:
					set := queued == 0 && a.Last == last
					unacked = unacked && !set
					pending = append(pending, TargetSet{a.Round, set})
				case StartRetry:
					timer = true
				case StopRetry:
					timer = false
				}
			}
		}
		step := func(e UploadEvent) { run(u.Step(e)) }
		step(Start{})
		for range rapid.IntRange(1, 80).Draw(t, "events") {
			for len(pending) > 0 {
				e := pending[0]
				pending = pending[1:]
				step(e)
			}
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1:
				queued, last, unacked = queued+1, last+1, true
				step(Wrote{})
			case 2:
				step(StreamUp{})
			case 3:
				step(Held{rapid.IntRange(0, 3).Draw(t, "stream")})
			case 4:
				step(Stop{})
				timer = false
				step(Start{})
			case 5:
				if timer {
					timer = false
					step(RetryFired{u.Round})
				}
			default:
				finishCall(t, u, step, &busy, &queued)
			}
		}
		for range 50 { // let it come to rest with a backend that works
			for len(pending) > 0 {
				e := pending[0]
				pending = pending[1:]
				step(e)
			}
			switch u.Phase {
			case Uploading:
				busy, queued = false, 0
				step(UploadReturned{u.Round})
			case Requesting:
				busy = false
				step(CheckpointReady{u.Round, 1, 1})
			case UploadWaiting:
				step(RetryFired{u.Round})
			}
		}
		if u.Phase != UploadIdle || queued != 0 || unacked {
			t.Fatalf("at rest %s with %d queued, unacknowledged %v", u.Phase, queued, unacked)
		}
	})
}

func finishCall(t *rapid.T, u *Uplink, step func(UploadEvent), busy *bool, queued *int) {
	if !*busy {
		return
	}
	*busy = false
	ok := rapid.Bool().Draw(t, "ok")
	switch u.Phase {
	case Uploading:
		if ok {
			*queued = rapid.IntRange(0, *queued).Draw(t, "left")
			step(UploadReturned{u.Round})
		} else {
			step(UploadFailed{u.Round, errors.New("x")})
		}
	case Requesting:
		if ok {
			step(CheckpointReady{u.Round, 1, 1})
		} else {
			step(CheckpointFailed{u.Round, errors.New("x")})
		}
	}
}
