package clientsdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/clientsdk/internal/transport"
	"github.com/millrace/millrace/protocol"
)

// inboxSize bounds events that wait for the loop; streams are not read further
// while it is full.
const inboxSize = 16

// engine runs the two state machines of one connection: one goroutine, the
// loop, steps them and does all storage actions; everything that waits for the
// world runs in goroutines of its own that report to the loop. stop joins all.
type engine struct {
	db         *DB
	connector  Connector
	opts       ConnectOptions
	parameters []byte

	ctx    context.Context
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup
	inbox  chan any // machine.Event and machine.UploadEvent, in order of each sender
	nudge  chan struct{}
	retry  chan struct{}

	creds credentials
	noWS  atomic.Bool // the WebSocket was found unavailable
	// current is the stream, for those outside the loop.
	current atomic.Pointer[openStream]

	// Owned by the loop.
	down       machine.Downlink
	up         machine.Uplink
	apply      applier
	stream     *openStream
	downTimer  *time.Timer
	upTimer    *time.Timer
	stopUpload context.CancelFunc
	held       bool
	covered    int64 // version of the list of streams last completed
}

var errStopped = errors.New("disconnected")

func newEngine(db *DB, c Connector, o ConnectOptions) (*engine, error) {
	e := &engine{db: db, connector: c, opts: o, inbox: make(chan any, inboxSize),
		nudge: make(chan struct{}, 1), retry: make(chan struct{}, 1)}
	if o.Parameters != nil {
		var err error
		if e.parameters, err = json.Marshal(o.Parameters); err != nil {
			return nil, fmt.Errorf("connect: parameters: %w", err)
		}
	}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	e.creds.connector = c
	e.creds.turn = make(chan struct{}, 1)
	e.apply = applier{store: db.store, verify: !o.TrustOpChecksums}
	e.down.Backoff, e.up.Backoff = retryFrom(&o), retryFrom(&o)
	e.up.Stalled = errStalled
	return e, nil
}

func (e *engine) start() {
	e.tasks.Go(e.loop)
}

// stop ends everything and waits for it.
func (e *engine) stop() {
	e.cancel(errStopped)
	e.tasks.Wait()
}

// wake tells that the queue or the list of streams may have changed.
func (e *engine) wake() {
	select {
	case e.nudge <- struct{}{}:
	default: // the loop will look anyway
	}
}

func (e *engine) retryNow() {
	select {
	case e.retry <- struct{}{}:
	default:
	}
}

// post hands an event to the loop; false if there is no loop any more.
func (e *engine) post(ev any) bool {
	select {
	case e.inbox <- ev:
		return true
	case <-e.ctx.Done():
		return false
	}
}

// loop: wait for an event, step, do, report.
func (e *engine) loop() {
	e.downTimer, e.upTimer = stoppedTimer(), stoppedTimer()
	defer e.leave()
	e.step(machine.SubscriptionsChanged{Version: e.db.subs.current()})
	e.step(machine.Connect{})
	e.stepUp(machine.Start{})
	for {
		e.report()
		ev, ok := e.next()
		if !ok {
			return
		}
		switch ev := ev.(type) {
		case machine.Event:
			e.step(ev)
		case machine.UploadEvent:
			e.stepUp(ev)
		}
	}
}

// next gives the next event. What was collected of a stream is stored once the
// stream pauses.
func (e *engine) next() (ev any, ok bool) {
	if len(e.apply.batch) > 0 {
		select {
		case ev := <-e.inbox:
			return ev, true
		default:
			if ev := e.apply.flush(e.ctx, e.down.Attempt); ev != nil {
				return ev, true
			}
			e.report()
		}
	}
	select {
	case ev := <-e.inbox:
		return ev, true
	case <-e.nudge:
		e.step(machine.SubscriptionsChanged{Version: e.db.subs.current()})
		return machine.Wrote{}, true
	case <-e.retry:
		return machine.Connect{}, true
	case <-e.downTimer.C:
		return machine.TimerFired{Attempt: e.down.Attempt}, true
	case <-e.upTimer.C:
		return machine.RetryFired{Round: e.up.Round}, true
	case <-e.ctx.Done():
		return nil, false
	}
}

// leave ends what the machines have running.
func (e *engine) leave() {
	if ev := e.apply.flush(context.WithoutCancel(e.ctx), e.down.Attempt); ev != nil {
		e.db.log.Warn("the last data of the connection was not stored", "event", fmt.Sprintf("%T", ev))
	}
	e.step(machine.Disconnect{})
	e.stepUp(machine.Stop{})
	e.downTimer.Stop()
	e.upTimer.Stop()
	e.report()
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// jittered takes up to half of a delay off, so that a fleet does not come back
// in step.
func jittered(d time.Duration) time.Duration {
	return d - time.Duration(rand.Int64N(int64(d)/2+1))
}

// step runs the download machine and does what it decides. Storage actions
// answer at once; their answer is stepped before anything else, and after one
// that ends the stream the rest of the step is void.
func (e *engine) step(ev machine.Event) {
	before := e.down.Phase
	for _, a := range e.down.Step(ev) {
		if answer := e.act(a); answer != nil {
			_, applied := answer.(machine.Applied)
			e.step(answer)
			if !applied {
				break
			}
		}
	}
	e.follow(before, ev)
}

// follow tells the upload machine, and the log, what became of the download.
func (e *engine) follow(before machine.Phase, ev machine.Event) {
	switch ev := ev.(type) {
	case machine.Opened:
		if before == machine.Opening && e.down.Phase == machine.Syncing {
			e.db.log.Info("connected", "attempt", ev.Attempt, "in_band", ev.InBand)
			e.stepUp(machine.StreamUp{})
		}
	case machine.Received:
		if _, ok := ev.Line.(protocol.TokenExpiresIn); ok && ev.Attempt == e.down.Attempt {
			if err := e.db.expireStreams(e.ctx); err != nil && e.ctx.Err() == nil {
				e.db.log.Warn("expire streams", "error", err)
			}
		}
	case machine.Applied:
		e.applied(ev)
	}
	if e.down.Phase == machine.Waiting && before != machine.Waiting {
		e.db.log.Info("disconnected", "error", e.down.Err, "failures", e.down.Failures)
	}
}

func (e *engine) applied(ev machine.Applied) {
	if ev.Full {
		e.held = !ev.Published
		e.apply.progress = progress{}
		if ev.Published {
			e.covered = e.down.Covered
		}
	}
	if ev.Published {
		e.noteSynced()
	}
	if e.held {
		e.stepUp(machine.Held{Stream: ev.Attempt})
	}
}

func (e *engine) noteSynced() {
	if err := e.db.loadSynced(e.ctx); err != nil && e.ctx.Err() == nil {
		e.db.log.Warn("read sync times", "error", err)
	}
}

// act does one action of the download machine.
func (e *engine) act(a machine.Action) machine.Event {
	switch a := a.(type) {
	case machine.FetchCredentials:
		e.tasks.Go(func() { e.fetchCredentials(a) })
	case machine.OpenStream:
		return e.openStream(a)
	case machine.CloseStream:
		e.apply.discard()
		e.closeStream()
	case machine.SendToken:
		if token, err := e.creds.token(); err == nil {
			e.stream.send(&protocol.TokenFrame{Token: token})
		}
	case machine.SendStreams:
		return e.sendStreams(a.Version)
	case machine.SendAck:
		e.stream.send(protocol.AckFrame{OpID: a.OpID})
	case machine.StartTimer:
		e.closeStream()
		e.downTimer.Reset(jittered(a.Delay))
	case machine.StopTimer:
		e.downTimer.Stop()
	case machine.Stage:
		if e.apply.add(a.Data) {
			return e.apply.flush(e.ctx, e.down.Attempt)
		}
	default:
		return e.apply.run(e.ctx, e.down.Attempt, a)
	}
	return nil
}

// openStream builds the request from what is stored and opens a stream with it.
func (e *engine) openStream(a machine.OpenStream) machine.Event {
	clientID, at, err := e.db.store.positions(e.ctx)
	if err != nil {
		return failure(a.Attempt, err)
	}
	subs, err := e.db.store.selection(e.ctx)
	if err != nil {
		return failure(a.Attempt, err)
	}
	req := &transport.Request{StreamsVersion: a.StreamsVersion, Request: protocol.Request{
		RawData: true, IncludeChecksum: true, BinaryData: true, ClientID: clientID, Parameters: e.parameters,
		Streams:     protocol.StreamSelection{IncludeDefaults: !e.opts.SkipDefaults, Subscriptions: subs},
		AppMetadata: e.opts.AppMetadata,
	}}
	for _, p := range at {
		req.Buckets = append(req.Buckets, protocol.BucketPosition{Name: p.name, After: p.after})
	}
	e.stream = newOpenStream(e, a.Attempt, req, e.opts.Transport)
	e.current.Store(e.stream)
	e.stream.start()
	return nil
}

func (e *engine) sendStreams(version int64) machine.Event {
	subs, err := e.db.store.selection(e.ctx)
	if err != nil {
		return failure(e.down.Attempt, err)
	}
	e.stream.send(&protocol.StreamsFrame{Version: version,
		StreamSelection: protocol.StreamSelection{IncludeDefaults: !e.opts.SkipDefaults, Subscriptions: subs}})
	return nil
}

func (e *engine) closeStream() {
	if e.stream != nil {
		e.stream.close()
		e.stream = nil
		e.current.Store(nil)
	}
}

func (e *engine) fetchCredentials(a machine.FetchCredentials) {
	if _, err := e.creds.get(e.ctx, a.Fresh); err != nil {
		e.post(machine.CredentialsFailed{Attempt: a.Attempt, Err: fmt.Errorf("fetch credentials: %w", err)})
		return
	}
	e.post(machine.CredentialsReady{Attempt: a.Attempt})
}

// userAgent names the SDK to servers.
var userAgent = "millrace-go/1 " + runtime.GOOS + "/" + runtime.GOARCH
