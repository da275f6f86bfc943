package machine

import (
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// EndReason says why a stream ended or could not be opened.
type EndReason uint8

// The reasons.
const (
	EndLost         EndReason = iota // network trouble, or the server closed without a word
	EndUnauthorized                  // the token was refused or has expired
	EndRestarting                    // the server goes away for a moment
	EndOverloaded                    // the server has no room
	EndProtocol                      // one side did not understand the other
)

// Event is something that happened to the download half. Results of actions
// carry the attempt the action belonged to; those of an earlier attempt are
// ignored.
type Event interface{ event() }

// The events of the download half.
type (
	// Connect: the app wants to be in sync, now.
	Connect struct{}
	// Disconnect: the app wants to be offline.
	Disconnect struct{}
	// CredentialsReady: a token is at hand.
	CredentialsReady struct{ Attempt int }
	// CredentialsFailed: the app has none to give.
	CredentialsFailed struct {
		Attempt int
		Err     error
	}
	// Opened: the server accepted the stream. InBand: it takes messages from
	// the client while it is open.
	Opened struct {
		Attempt int
		InBand  bool
	}
	// Received: a line came in.
	Received struct {
		Attempt int
		Line    protocol.Line
	}
	// Ended: the stream is over, or was refused.
	Ended struct {
		Attempt int
		Reason  EndReason
		Err     error
	}
	// Applied: a completion was valid and is stored. Published: readers see it.
	Applied struct {
		Attempt   int
		OpID      millrace.OpID
		Full      bool
		Published bool
	}
	// Corrupt: ops or sums of these buckets are wrong.
	Corrupt struct {
		Attempt int
		Buckets []string
		Err     error
	}
	// StorageFailed: the local database refused an action.
	StorageFailed struct {
		Attempt int
		Err     error
	}
	// TimerFired: the wait is over.
	TimerFired struct{ Attempt int }
	// SubscriptionsChanged: the app wants other streams. Versions grow.
	SubscriptionsChanged struct{ Version int64 }
)

func (Connect) event()              {}
func (Disconnect) event()           {}
func (CredentialsReady) event()     {}
func (CredentialsFailed) event()    {}
func (Opened) event()               {}
func (Received) event()             {}
func (Ended) event()                {}
func (Applied) event()              {}
func (Corrupt) event()              {}
func (StorageFailed) event()        {}
func (TimerFired) event()           {}
func (SubscriptionsChanged) event() {}

// Action is something to do. Actions are done in the order given, and storage
// actions one at a time.
type Action interface{ action() }

// The actions of the download half.
type (
	// FetchCredentials asks the app for a token; Fresh: not for one it gave
	// before. Answered by CredentialsReady or CredentialsFailed.
	FetchCredentials struct {
		Attempt int
		Fresh   bool
	}
	// OpenStream opens a stream with the positions stored now. Answered by
	// Opened or Ended.
	OpenStream struct {
		Attempt        int
		StreamsVersion int64
	}
	// CloseStream ends the open stream, or gives up opening it.
	CloseStream struct{ Attempt int }
	// SendToken sends the newest token on the open stream.
	SendToken struct{}
	// SendStreams sends the newest subscription list on the open stream.
	SendStreams struct{ Version int64 }
	// SendAck tells the server what is stored.
	SendAck struct{ OpID millrace.OpID }
	// Begin makes the stored buckets those of a new target.
	Begin struct {
		Whole   bool // Updated is the complete list
		Updated []protocol.Bucket
		Removed []string
	}
	// Stage stores ops. May be answered by Corrupt.
	Stage struct{ Data *protocol.Data }
	// Complete checks a completion and publishes it if the gate is open.
	// Answered by Applied or Corrupt.
	Complete struct {
		OpID            millrace.OpID
		WriteCheckpoint int64
		Buckets         []protocol.Bucket
		Full            bool
		Priority        int
	}
	// DropBuckets forgets buckets, so that the next request asks for them from
	// the start.
	DropBuckets struct{ Names []string }
	// StartTimer asks for TimerFired after about Delay; whoever runs it adds
	// jitter.
	StartTimer struct {
		Attempt int
		Delay   time.Duration
	}
	// StopTimer cancels it.
	StopTimer struct{}
)

func (FetchCredentials) action() {}
func (OpenStream) action()       {}
func (CloseStream) action()      {}
func (SendToken) action()        {}
func (SendStreams) action()      {}
func (SendAck) action()          {}
func (Begin) action()            {}
func (Stage) action()            {}
func (Complete) action()         {}
func (DropBuckets) action()      {}
func (StartTimer) action()       {}
func (StopTimer) action()        {}
