package relay

import (
	"context"
	"net/http"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
)

// Timing of the write checkpoints of old clients.
const (
	oldWriteWait = 50 * time.Second
	oldWritePoll = 200 * time.Millisecond
)

// serveOldWriteCheckpoint is GET /write-checkpoint.json, for clients that know
// write checkpoints only as op ids: it answers once a checkpoint holds what the
// sources had committed when it was asked.
func (r *Relay) serveOldWriteCheckpoint(w http.ResponseWriter, req *http.Request) {
	token, err := r.authorize(req)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	client, err := clientIDOf(req)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	if n := r.opening.Add(1); int(n) > r.limits.Connections {
		r.opening.Add(-1)
		r.meters.refused.WithLabelValues("connections").Inc()
		writeError(w, ending{code: protocol.CodeConnections, status: http.StatusTooManyRequests, text: "too many connections (relay.max_connections)"})
		return
	}
	defer r.opening.Add(-1)
	at, err := r.awaitWrite(req.Context(), writeUser(token.Subject, client))
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(protocol.AppendOldWriteCheckpoint(nil, at), '\n'))
}

// awaitWrite asks for a write checkpoint and waits for the checkpoint that
// acknowledges it.
func (r *Relay) awaitWrite(ctx context.Context, user string) (millrace.OpID, error) {
	ctx, cancel := context.WithTimeout(ctx, oldWriteWait)
	defer cancel()
	id, err := r.writes.request(ctx, user, 0)
	if err != nil {
		return 0, err
	}
	tick := time.NewTicker(oldWritePoll)
	defer tick.Stop()
	for {
		at, acknowledged, err := r.acknowledged(ctx, user)
		if err != nil {
			return 0, err
		}
		if acknowledged >= id {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-r.stopping:
			return 0, errRestarting
		case <-tick.C:
		}
	}
}

// acknowledged is the newest write checkpoint that the newest checkpoint
// acknowledges to a user.
func (r *Relay) acknowledged(ctx context.Context, user string) (millrace.OpID, int64, error) {
	release, err := r.acquireRead(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer release()
	snap, err := r.source.Snapshot(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer snap.Close()
	list, err := snap.WriteCheckpoints(ctx, nil, []string{user})
	if err != nil || len(list) == 0 {
		return 0, 0, err
	}
	return snap.Head().OpID, list[0].Acknowledged, nil
}
