package clientsdk

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/clientsdk/internal/transport"
)

// stepUp runs the upload machine and does what it decides.
func (e *engine) stepUp(ev machine.UploadEvent) {
	for _, a := range e.up.Step(ev) {
		if answer := e.actUp(a); answer != nil {
			e.stepUp(answer)
		}
	}
}

func (e *engine) actUp(a machine.Action) machine.UploadEvent {
	switch a := a.(type) {
	case machine.Inspect:
		return e.inspect(a)
	case machine.Upload:
		e.background(func(ctx context.Context) {
			if err := e.connector.UploadData(ctx, e.db); err != nil {
				e.post(machine.UploadFailed{Round: a.Round, Err: fmt.Errorf("upload: %w", err)})
				return
			}
			e.post(machine.UploadReturned{Round: a.Round})
		})
	case machine.RequestCheckpoint:
		e.background(func(ctx context.Context) { e.requestCheckpoint(ctx, a.Round) })
	case machine.CancelUpload:
		e.stopUpload()
	case machine.NoteFailure:
		e.db.log.Warn("upload", "error", a.Err, "failures", e.up.Failures)
		e.note("record the failed upload", e.db.store.failed(e.ctx, a.Err))
	case machine.SetTarget:
		set, err := e.db.store.setTarget(e.ctx, a.ID, a.Last)
		if err != nil {
			return machine.LocalFailed{Round: a.Round, Err: fmt.Errorf("store the write checkpoint: %w", err)}
		}
		return machine.TargetSet{Round: a.Round, Set: set}
	case machine.PublishPending:
		published, err := e.db.store.publishPending(e.ctx)
		e.note("publish", err)
		if published {
			e.held, e.covered = false, e.down.Covered
			e.noteSynced()
		}
	case machine.StartRetry:
		e.upTimer.Reset(jittered(a.Delay))
	case machine.StopRetry:
		e.upTimer.Stop()
	}
	return nil
}

// note logs an error of the local database that a later try makes good.
func (e *engine) note(what string, err error) {
	if err != nil && e.ctx.Err() == nil {
		e.db.log.Error(what, "error", err)
	}
}

func (e *engine) inspect(a machine.Inspect) machine.UploadEvent {
	g, err := e.db.store.gate(e.ctx)
	if err != nil {
		return machine.LocalFailed{Round: a.Round, Err: err}
	}
	return machine.Inspected{Round: a.Round, Queued: g.Queued, Head: g.Head, Last: g.Last, Unacknowledged: g.Unacknowledged, Stream: e.down.Attempt}
}

// background runs what CancelUpload cancels.
func (e *engine) background(fn func(context.Context)) {
	ctx, cancel := context.WithCancel(e.ctx)
	e.stopUpload = cancel
	e.tasks.Go(func() {
		defer cancel()
		fn(ctx)
	})
}

// requestCheckpoint asks on the stream if it takes messages, else over HTTP.
func (e *engine) requestCheckpoint(ctx context.Context, round int) {
	id, stream, err := e.askCheckpoint(ctx)
	if err != nil {
		e.post(machine.CheckpointFailed{Round: round, Err: fmt.Errorf("write checkpoint: %w", err)})
		return
	}
	e.post(machine.CheckpointReady{Round: round, ID: id, Stream: stream})
}

func (e *engine) askCheckpoint(ctx context.Context) (id int64, stream int, err error) {
	if s := e.current.Load(); s != nil {
		id, ok, err := s.writeCheckpoint(ctx)
		if ok {
			return id, s.attempt, err
		}
		stream = s.attempt
	}
	clientID, err := e.db.ClientID(ctx)
	if err != nil {
		return 0, 0, err
	}
	if _, err := e.creds.get(ctx, false); err != nil {
		return 0, 0, fmt.Errorf("fetch credentials: %w", err)
	}
	c, token, err := e.client()
	if err != nil {
		return 0, 0, err
	}
	id, err = c.WriteCheckpoint(ctx, token, clientID)
	if transport.Reason(err) == machine.EndUnauthorized && err != nil {
		e.creds.forget(token)
	}
	return id, stream, err
}

// client is the server as the newest credentials name it.
func (e *engine) client() (*transport.Client, string, error) {
	c, ok := e.creds.cached()
	if !ok {
		return nil, "", errNoCredentials
	}
	return &transport.Client{Endpoint: c.Endpoint, HTTP: e.opts.HTTPClient, UserAgent: userAgent, Silence: e.opts.Silence}, c.Token, nil
}

var errNoCredentials = errors.New("there are no credentials")

// credentialsTimeout bounds one call of FetchCredentials.
const credentialsTimeout = time.Minute

// credentials caches what the connector gave, and lets one goroutine ask it at
// a time.
type credentials struct {
	connector Connector
	turn      chan struct{} // holds a token while the connector is asked

	mu     sync.Mutex
	last   Credentials
	usable bool
}

func (c *credentials) cached() (Credentials, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.usable
}

func (c *credentials) token() (string, error) {
	last, ok := c.cached()
	if !ok {
		return "", errNoCredentials
	}
	return last.Token, nil
}

// forget makes sure that a token that was refused is not used again.
func (c *credentials) forget(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last.Token == token {
		c.usable = false
	}
}

// get gives cached credentials, or asks for some; fresh: it asks in any case.
func (c *credentials) get(ctx context.Context, fresh bool) (Credentials, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return Credentials{}, ctx.Err()
	}
	if last, ok := c.cached(); ok && !fresh {
		return last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	got, err := c.connector.FetchCredentials(ctx)
	if err != nil {
		return Credentials{}, err
	}
	if got.Token == "" || got.Endpoint == "" {
		return Credentials{}, errors.New("FetchCredentials gave no endpoint or no token")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.usable = got, true
	return got, nil
}
