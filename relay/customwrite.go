package relay

import (
	"context"
	"time"

	"github.com/millrace/millrace"
)

// writeWait bounds how long a client waits for the primary sidecar, and
// customWait how long for a checkpoint besides.
const (
	writeWait  = 10 * time.Second
	customWait = 25 * time.Second
)

// requestWrite gives the number a device has after it asked for a write
// checkpoint: the next one, or its own if id is not 0.
//
// With custom write checkpoints the server has no numbers to give: any it made
// up could be one that the backend will use, and would open the device's gate
// too early then. A device that asks all the same, because the app did not pass
// the backend's number on or its SDK lost it, is told the greatest number it has
// had so far, once a checkpoint holds what was committed when it asked. So it
// goes on, without the promise that custom numbers make.
func (r *Relay) requestWrite(ctx context.Context, user string, id int64) (int64, error) {
	events, err := r.events(ctx)
	if err != nil {
		return 0, err
	}
	if id != 0 || len(events) == 0 {
		ctx, cancel := context.WithTimeout(ctx, writeWait)
		defer cancel()
		return r.writes.request(ctx, user, id)
	}
	ctx, cancel := context.WithTimeout(ctx, customWait)
	defer cancel()
	if _, err := r.awaitWrite(ctx, user); err != nil {
		return 0, err
	}
	return r.customHeld(ctx, events, user)
}

// events are the event definitions of the rules in force.
func (r *Relay) events(ctx context.Context) ([]millrace.DefinitionID, error) {
	if status := r.publisher.currentStatus(); status.begun {
		return status.events, nil
	}
	release, err := r.acquireRead(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	snap, err := r.source.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer snap.Close()
	return snap.Events(ctx)
}

// customHeld is the greatest number that the newest checkpoint acknowledges to a
// device; 0 if it never had one.
func (r *Relay) customHeld(ctx context.Context, events []millrace.DefinitionID, user string) (int64, error) {
	release, err := r.acquireRead(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	snap, err := r.source.Snapshot(ctx)
	if err != nil {
		return 0, err
	}
	defer snap.Close()
	list, err := snap.WriteCheckpoints(ctx, events, []string{user})
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0].Acknowledged, nil
}

// unaskedEvery is how often it is told that clients ask for write checkpoints
// that the backend is to give.
const unaskedEvery = 10 * time.Minute

// noteUnasked warns of a client that asks over HTTP, as PowerSync SDKs do. In-band
// a Millrace SDK asks again for what it waits for on each new connection.
func (r *Relay) noteUnasked(ctx context.Context) {
	if events, err := r.events(ctx); err != nil || len(events) == 0 {
		return
	}
	now := time.Now().UnixNano()
	if last := r.unasked.Load(); now-last < int64(unaskedEvery) || !r.unasked.CompareAndSwap(last, now) {
		return
	}
	r.log.Warn("a client asks for a write checkpoint, which the app's backend is to give: the rules in force define custom ones",
		"cure", "pass the backend's number to complete(); until then its uploads may vanish from view for a moment")
}
