package machine

import "time"

// UploadPhase is where the upload half stands.
type UploadPhase uint8

// The phases.
const (
	UploadOff     UploadPhase = iota // nobody asked to be connected
	UploadIdle                       // nothing to do
	Checking                         // looking at the queue
	Uploading                        // the app's upload function runs
	Requesting                       // asking the server for a write checkpoint
	Settling                         // storing it
	UploadWaiting                    // until the next try
)

// String names the phase.
func (p UploadPhase) String() string {
	return [...]string{"off", "idle", "checking", "uploading", "requesting", "settling", "waiting"}[p]
}

// UploadEvent is something that happened to the upload half.
type UploadEvent interface{ uploadEvent() }

// The events of the upload half. Results carry the round they belong to; those
// of an earlier round are ignored.
type (
	// Start: the app wants to be in sync.
	Start struct{}
	// Stop: the app wants to be offline.
	Stop struct{}
	// Wrote: the queue may have changed.
	Wrote struct{}
	// StreamUp: the server was reached.
	StreamUp struct{}
	// Held: a valid completion, received on this stream, waits for a write
	// checkpoint that was asked for earlier.
	Held struct{ Stream int }
	// Inspected tells what the queue looks like.
	Inspected struct {
		Round int
		// Queued is the number of entries, Head the first one's.
		Queued, Head int64
		// Last is the number of the newest entry ever.
		Last int64
		// Unacknowledged: no write checkpoint was asked for since the last write,
		// nor did the backend give one.
		Unacknowledged bool
		// Stream is the one that is open, or was last.
		Stream int
	}
	// UploadReturned: the app's function returned without error.
	UploadReturned struct{ Round int }
	// UploadFailed: it returned an error.
	UploadFailed struct {
		Round int
		Err   error
	}
	// CheckpointReady: the server's write checkpoint, asked for on a stream.
	CheckpointReady struct {
		Round  int
		ID     int64
		Stream int
	}
	// CheckpointFailed: the server gave none.
	CheckpointFailed struct {
		Round int
		Err   error
	}
	// TargetSet: it is stored; Set is false if a write came in between, or none is
	// waited for any more.
	TargetSet struct {
		Round int
		Set   bool
	}
	// LocalFailed: the local database refused Inspect or SetTarget.
	LocalFailed struct {
		Round int
		Err   error
	}
	// RetryFired: the wait is over.
	RetryFired struct{ Round int }
)

func (Start) uploadEvent()            {}
func (Stop) uploadEvent()             {}
func (Wrote) uploadEvent()            {}
func (StreamUp) uploadEvent()         {}
func (Held) uploadEvent()             {}
func (Inspected) uploadEvent()        {}
func (UploadReturned) uploadEvent()   {}
func (UploadFailed) uploadEvent()     {}
func (CheckpointReady) uploadEvent()  {}
func (CheckpointFailed) uploadEvent() {}
func (TargetSet) uploadEvent()        {}
func (LocalFailed) uploadEvent()      {}
func (RetryFired) uploadEvent()       {}

// The actions of the upload half.
type (
	// Inspect reads the queue. Answered by Inspected or LocalFailed.
	Inspect struct{ Round int }
	// Upload runs the app's function. Answered by UploadReturned or UploadFailed.
	Upload struct{ Round int }
	// CancelUpload cancels what Upload or RequestCheckpoint started.
	CancelUpload struct{}
	// NoteFailure records an error with the oldest transaction.
	NoteFailure struct{ Err error }
	// RequestCheckpoint asks the server for a write checkpoint. Answered by
	// CheckpointReady or CheckpointFailed.
	RequestCheckpoint struct{ Round int }
	// SetTarget stores it, for everything written up to entry Last; answered by
	// TargetSet or LocalFailed.
	SetTarget struct {
		Round    int
		ID, Last int64
	}
	// PublishPending publishes the completion that waited for the gate.
	PublishPending struct{}
	// StartRetry asks for RetryFired after about Delay.
	StartRetry struct {
		Round int
		Delay time.Duration
	}
	// StopRetry cancels it.
	StopRetry struct{}
)

func (Inspect) action()           {}
func (Upload) action()            {}
func (CancelUpload) action()      {}
func (NoteFailure) action()       {}
func (RequestCheckpoint) action() {}
func (SetTarget) action()         {}
func (PublishPending) action()    {}
func (StartRetry) action()        {}
func (StopRetry) action()         {}

// Uplink is the state of the upload half. Stalled is the error of an upload
// function that returns without progress.
type Uplink struct {
	Backoff Backoff
	Stalled error

	Phase    UploadPhase
	Round    int // number of the newest action that has an answer
	Failures int // in a row
	// Again: something happened while busy; look at the queue once more.
	Again bool
	// Renew: the write checkpoint asked for is to be asked for once more.
	Renew bool
	// Head is the first entry when the upload function was called.
	Head int64
	// Last is the newest entry when the queue was found empty.
	Last int64
	// AskedOn is the stream the last write checkpoint was asked for on, or given by
	// the backend.
	AskedOn int
	// Err is the last failure, nil after a success.
	Err error
}

// Step takes one event and gives the actions it leads to.
func (u *Uplink) Step(e UploadEvent) []Action {
	switch e := e.(type) {
	case Start:
		if u.Phase == UploadOff {
			u.Failures, u.Err = 0, nil
			return u.check()
		}
	case Stop:
		return u.stop()
	case Wrote:
		return u.wake(false)
	case StreamUp:
		return u.wake(true)
	case Held:
		if u.Phase != UploadOff && e.Stream != u.AskedOn {
			u.AskedOn = e.Stream // once per stream
			u.Renew = true
			return u.wake(true)
		}
	case Inspected:
		if e.Round == u.Round && u.Phase == Checking {
			return u.inspected(e)
		}
	case UploadReturned:
		if e.Round == u.Round && u.Phase == Uploading {
			return u.check()
		}
	case UploadFailed:
		if e.Round == u.Round && u.Phase == Uploading {
			u.Head = 0
			return append([]Action{NoteFailure{e.Err}}, u.wait(e.Err)...)
		}
	case CheckpointReady:
		if e.Round == u.Round && u.Phase == Requesting {
			u.Phase, u.AskedOn = Settling, e.Stream
			u.Round++
			return []Action{SetTarget{u.Round, e.ID, u.Last}}
		}
	case CheckpointFailed:
		if e.Round == u.Round && u.Phase == Requesting {
			return u.wait(e.Err)
		}
	case TargetSet:
		if e.Round == u.Round && u.Phase == Settling {
			return u.settled()
		}
	case LocalFailed:
		if e.Round == u.Round && (u.Phase == Checking || u.Phase == Settling) {
			return u.wait(e.Err)
		}
	case RetryFired:
		if e.Round == u.Round && u.Phase == UploadWaiting {
			return u.check()
		}
	}
	return nil
}

func (u *Uplink) check() []Action {
	u.Phase, u.Again = Checking, false
	u.Round++
	return []Action{Inspect{u.Round}}
}

// wake looks at the queue. A failing upload is retried at its time, unless the
// server has been reached, which tells that the network is back.
func (u *Uplink) wake(reached bool) []Action {
	switch u.Phase {
	case UploadIdle:
		return u.check()
	case UploadWaiting:
		if reached {
			return append([]Action{StopRetry{}}, u.check()...)
		}
	case Checking, Uploading, Requesting, Settling:
		u.Again = true
	}
	return nil
}

func (u *Uplink) stop() []Action {
	var out []Action
	switch u.Phase {
	case Uploading, Requesting:
		out = []Action{CancelUpload{}}
	case UploadWaiting:
		out = []Action{StopRetry{}}
	}
	u.Phase, u.Again, u.Renew, u.Head, u.Err = UploadOff, false, false, 0, nil
	u.Round++
	return out
}

func (u *Uplink) wait(err error) []Action {
	u.Phase, u.Err = UploadWaiting, err
	u.Failures++
	u.Round++
	return []Action{StartRetry{u.Round, u.Backoff.Delay(u.Failures)}}
}

func (u *Uplink) inspected(e Inspected) []Action {
	head := u.Head
	u.Head = 0
	switch {
	case e.Queued > 0 && e.Head == head:
		return append([]Action{NoteFailure{u.Stalled}}, u.wait(u.Stalled)...)
	case e.Queued > 0:
		if head != 0 { // the last call got rid of something
			u.Failures, u.Err = 0, nil
		}
		u.Phase, u.Head = Uploading, e.Head
		u.Round++
		return []Action{Upload{u.Round}}
	case e.Unacknowledged, u.Renew && head == 0:
		if head != 0 {
			u.Failures, u.Err = 0, nil
		}
		u.Phase, u.Renew, u.Last = Requesting, false, e.Last
		u.Round++
		return []Action{RequestCheckpoint{u.Round}}
	}
	var out []Action
	if head != 0 {
		// The backend gave the number: as if it had been asked for on this stream.
		u.Renew, u.AskedOn = false, e.Stream
	}
	if head != 0 || u.Failures > 0 {
		// What has come since may contain it.
		out = []Action{PublishPending{}}
	}
	if u.Again {
		return append(out, u.check()...)
	}
	u.Phase, u.Failures, u.Err = UploadIdle, 0, nil
	return out
}

func (u *Uplink) settled() []Action {
	u.Failures, u.Err = 0, nil
	// Also if it is not set: a number of the backend may have been reached.
	return append([]Action{PublishPending{}}, u.check()...)
}
