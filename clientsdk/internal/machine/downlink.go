package machine

import (
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// Phase is where the download half stands.
type Phase uint8

// The phases.
const (
	Offline     Phase = iota // nobody asked to be connected
	Authorizing              // waiting for credentials
	Opening                  // waiting for the server to accept the stream
	Syncing                  // a stream is open
	Waiting                  // until the next attempt
)

// String names the phase.
func (p Phase) String() string {
	return [...]string{"offline", "authorizing", "opening", "syncing", "waiting"}[p]
}

// Backoff bounds the wait between attempts, which doubles with each failure in
// a row.
type Backoff struct{ Min, Max time.Duration }

// Delay is the wait after so many failures in a row.
func (b Backoff) Delay(failures int) time.Duration {
	d := b.Min
	for range failures - 1 {
		if d >= b.Max/2 {
			return b.Max
		}
		d *= 2
	}
	return d
}

// RefreshSeconds is the remaining life of a token at which a new one is asked for.
const RefreshSeconds = 30

// askAgainAfter is after how many failures in a row credentials are asked for
// again, in case the server has moved.
const askAgainAfter = 3

// Downlink is the state of the download half. The zero value with Backoff set
// is Offline. Fields are for reading; Step alone changes them.
type Downlink struct {
	Backoff Backoff

	Phase    Phase
	Attempt  int // number of the present attempt to be in sync
	Failures int // attempts in a row without a full completion
	// Connected: a stream is open, or is being replaced by another without the
	// app needing to know.
	Connected bool
	// InBand: the open stream takes messages.
	InBand bool
	// Stale: the token at hand must not be used again.
	Stale bool
	// Refreshing: a new token is being fetched while the stream goes on.
	Refreshing bool
	// Wanted is the newest version of the subscription list, Sent the one the
	// stream knows.
	Wanted, Sent int64
	// Opened is the version the stream was opened with, Covered the one the
	// present target was made for.
	Opened, Covered int64
	// Target is the checkpoint being downloaded, nil before the first of a
	// stream. Completed: everything of it is stored.
	Target    *Target
	Completed bool
	// Streams is what the last checkpoint said of streams.
	Streams []protocol.Stream
	// Err is the last failure; nil once a completion succeeded. Warning is the
	// last word of the server that did not end the stream.
	Err     error
	Warning error
}

// Target is the checkpoint being downloaded.
type Target struct {
	OpID            millrace.OpID
	WriteCheckpoint int64
	Buckets         map[string]protocol.Bucket
}

// Step takes one event and gives the actions it leads to.
func (d *Downlink) Step(e Event) []Action {
	switch e := e.(type) {
	case Connect:
		return d.connect()
	case Disconnect:
		return d.disconnect()
	case SubscriptionsChanged:
		return d.subscriptions(e)
	case CredentialsReady:
		if e.Attempt == d.Attempt {
			return d.credentials()
		}
	case CredentialsFailed:
		if e.Attempt == d.Attempt {
			return d.noCredentials(e.Err)
		}
	case Opened:
		if e.Attempt == d.Attempt && d.Phase == Opening {
			return d.opened(e)
		}
	case Received:
		if e.Attempt == d.Attempt && d.Phase == Syncing {
			return d.received(e.Line)
		}
	case Ended:
		if e.Attempt == d.Attempt && (d.Phase == Opening || d.Phase == Syncing) {
			return d.ended(e)
		}
	case Applied:
		if e.Attempt == d.Attempt && d.Phase == Syncing {
			return d.applied(e)
		}
	case Corrupt:
		if e.Attempt == d.Attempt && d.Phase == Syncing {
			return append([]Action{CloseStream{d.Attempt}, DropBuckets{e.Buckets}}, d.wait(e.Err)...)
		}
	case StorageFailed:
		if e.Attempt == d.Attempt && (d.Phase == Opening || d.Phase == Syncing) {
			return append([]Action{CloseStream{d.Attempt}}, d.wait(e.Err)...)
		}
	case TimerFired:
		if e.Attempt == d.Attempt && d.Phase == Waiting {
			return d.attempt()
		}
	}
	return nil
}

func (d *Downlink) connect() []Action {
	switch d.Phase {
	case Offline:
		d.Failures, d.Err = 0, nil
		return d.attempt()
	case Waiting:
		return append([]Action{StopTimer{}}, d.attempt()...)
	}
	return nil
}

func (d *Downlink) disconnect() []Action {
	var out []Action
	switch d.Phase {
	case Opening, Syncing:
		out = []Action{CloseStream{d.Attempt}}
	case Waiting:
		out = []Action{StopTimer{}}
	}
	d.reset(Offline)
	d.Attempt++ // what is still under way belongs to the past
	d.Connected, d.Err, d.Warning = false, nil, nil
	return out
}

// reset enters a phase in which no stream is open.
func (d *Downlink) reset(p Phase) {
	d.Phase = p
	d.InBand, d.Refreshing, d.Target, d.Completed = false, false, nil, false
}

// attempt starts from the credentials.
func (d *Downlink) attempt() []Action {
	d.reset(Authorizing)
	d.Attempt++
	return []Action{FetchCredentials{d.Attempt, d.Stale}}
}

// wait ends an attempt that failed.
func (d *Downlink) wait(err error) []Action {
	d.reset(Waiting)
	d.Connected = false
	d.Failures++
	d.Err = err
	if d.Failures%askAgainAfter == 0 {
		d.Stale = true
	}
	return []Action{StartTimer{d.Attempt, d.Backoff.Delay(d.Failures)}}
}

func (d *Downlink) credentials() []Action {
	switch d.Phase {
	case Authorizing:
		d.Stale = false
		d.Phase = Opening
		d.Sent, d.Opened = d.Wanted, d.Wanted
		return []Action{OpenStream{d.Attempt, d.Sent}}
	case Syncing:
		if !d.Refreshing {
			return nil
		}
		d.Stale, d.Refreshing = false, false
		if d.InBand {
			return []Action{SendToken{}}
		}
		return d.reopen()
	}
	return nil
}

// reopen replaces the stream by another without a disconnect in between.
func (d *Downlink) reopen() []Action {
	closed := CloseStream{d.Attempt}
	d.reset(Opening)
	d.Attempt++
	d.Sent, d.Opened = d.Wanted, d.Wanted
	return []Action{closed, OpenStream{d.Attempt, d.Sent}}
}

func (d *Downlink) noCredentials(err error) []Action {
	switch d.Phase {
	case Authorizing:
		return d.wait(err)
	case Syncing: // the token at hand still holds: asked again with its next warning
		if d.Refreshing {
			d.Refreshing, d.Warning = false, err
		}
	}
	return nil
}

func (d *Downlink) opened(e Opened) []Action {
	d.Phase, d.InBand, d.Connected = Syncing, e.InBand, true
	if d.Sent != d.Wanted {
		return d.sendStreams()
	}
	return nil
}

func (d *Downlink) subscriptions(e SubscriptionsChanged) []Action {
	if e.Version <= d.Wanted {
		return nil
	}
	d.Wanted = e.Version
	if d.Phase == Syncing {
		return d.sendStreams()
	}
	return nil
}

func (d *Downlink) sendStreams() []Action {
	if !d.InBand {
		return d.reopen()
	}
	d.Sent = d.Wanted
	return []Action{SendStreams{d.Sent}}
}

func (d *Downlink) ended(e Ended) []Action {
	switch e.Reason {
	case EndUnauthorized:
		d.Stale = true
	case EndOverloaded:
		d.Failures = max(d.Failures, 3)
	}
	return d.wait(e.Err)
}

func (d *Downlink) applied(e Applied) []Action {
	d.Err = nil
	if !e.Full {
		return nil
	}
	d.Failures, d.Completed = 0, true
	if d.InBand {
		return []Action{SendAck{e.OpID}}
	}
	return nil
}

// broken ends a stream whose server does not keep to the protocol.
func (d *Downlink) broken(format string, args ...any) []Action {
	err := fmt.Errorf("the server broke the protocol: "+format, args...)
	return append([]Action{CloseStream{d.Attempt}}, d.wait(err)...)
}

func (d *Downlink) received(line protocol.Line) []Action {
	switch l := line.(type) {
	case *protocol.Checkpoint:
		return d.checkpoint(l)
	case *protocol.CheckpointDiff:
		return d.diff(l)
	case *protocol.Data:
		return d.data(l)
	case protocol.CheckpointComplete:
		return d.complete(l)
	case protocol.PartialCheckpointComplete:
		return d.partial(l)
	case protocol.TokenExpiresIn:
		return d.tokenExpires(int(l))
	case *protocol.StreamError:
		return d.serverError(l)
	}
	return nil // a later server's line
}

func (d *Downlink) checkpoint(l *protocol.Checkpoint) []Action {
	if d.Target != nil && l.LastOpID < d.Target.OpID {
		return d.broken("checkpoint %d came after %d", l.LastOpID, d.Target.OpID)
	}
	buckets := make(map[string]protocol.Bucket, len(l.Buckets))
	for _, b := range l.Buckets {
		buckets[b.Name] = b
	}
	d.Target = &Target{l.LastOpID, l.WriteCheckpoint, buckets}
	d.Streams, d.Completed = l.Streams, false
	if d.Covered = d.Opened; d.InBand && l.StreamsVersion != 0 {
		d.Covered = l.StreamsVersion
	}
	return []Action{Begin{Whole: true, Updated: l.Buckets}}
}

func (d *Downlink) diff(l *protocol.CheckpointDiff) []Action {
	switch {
	case d.Target == nil:
		return d.broken("a checkpoint_diff came before any checkpoint")
	case l.LastOpID < d.Target.OpID:
		return d.broken("checkpoint %d came after %d", l.LastOpID, d.Target.OpID)
	}
	for _, name := range l.RemovedBuckets {
		delete(d.Target.Buckets, name)
	}
	for _, b := range l.UpdatedBuckets {
		d.Target.Buckets[b.Name] = b
	}
	d.Target.OpID, d.Target.WriteCheckpoint, d.Completed = l.LastOpID, l.WriteCheckpoint, false
	return []Action{Begin{Updated: l.UpdatedBuckets, Removed: l.RemovedBuckets}}
}

func (d *Downlink) data(l *protocol.Data) []Action {
	if d.Target == nil {
		return d.broken("data came before any checkpoint")
	}
	if _, ok := d.Target.Buckets[l.Bucket]; !ok {
		return d.broken("data came for bucket %s, which is not in the checkpoint", l.Bucket)
	}
	if n := len(l.Ops); n > 0 && l.Ops[n-1].ID > d.Target.OpID {
		return d.broken("op %d is beyond checkpoint %d", l.Ops[n-1].ID, d.Target.OpID)
	}
	return []Action{Stage{l}}
}

func (d *Downlink) complete(l protocol.CheckpointComplete) []Action {
	switch {
	case d.Target == nil:
		return d.broken("checkpoint_complete came before any checkpoint")
	case l.LastOpID != 0 && l.LastOpID != d.Target.OpID:
		return d.broken("checkpoint_complete for %d, but the checkpoint is %d", l.LastOpID, d.Target.OpID)
	}
	c := Complete{OpID: d.Target.OpID, WriteCheckpoint: d.Target.WriteCheckpoint, Full: true}
	for _, b := range d.Target.Buckets {
		c.Buckets = append(c.Buckets, b)
	}
	return []Action{c}
}

func (d *Downlink) partial(l protocol.PartialCheckpointComplete) []Action {
	switch {
	case d.Target == nil:
		return d.broken("partial_checkpoint_complete came before any checkpoint")
	case l.LastOpID != 0 && l.LastOpID != d.Target.OpID:
		return d.broken("partial_checkpoint_complete for %d, but the checkpoint is %d", l.LastOpID, d.Target.OpID)
	}
	c := Complete{OpID: d.Target.OpID, Priority: l.Priority}
	for _, b := range d.Target.Buckets {
		if b.Priority <= l.Priority {
			c.Buckets = append(c.Buckets, b)
		}
	}
	return []Action{c}
}

func (d *Downlink) tokenExpires(seconds int) []Action {
	switch {
	case seconds <= 0:
		d.Stale = true
		return append([]Action{CloseStream{d.Attempt}}, d.wait(fmt.Errorf("the token has expired"))...)
	case seconds <= RefreshSeconds && !d.Refreshing:
		d.Refreshing, d.Stale = true, true
		return []Action{FetchCredentials{d.Attempt, true}}
	}
	return nil
}

func (d *Downlink) serverError(l *protocol.StreamError) []Action {
	err := fmt.Errorf("%s: %s", l.Code, l.Description)
	unauthorized := strings.HasPrefix(l.Code, "PSYNC_S21")
	d.Stale = d.Stale || unauthorized && l.Fatal
	if !l.Fatal {
		d.Warning = err
		return nil
	}
	return append([]Action{CloseStream{d.Attempt}}, d.wait(err)...)
}
