package relay

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace"
)

// writeCheckpoints groups requests for write checkpoints: while one insert is
// in flight, the requests that come wait for the next.
type writeCheckpoints struct {
	source Source
	batch  int
	meter  prometheus.Observer
	queue  chan *writeRequest
	ended  chan struct{} // closed when run has returned
}

type writeRequest struct {
	millrace.WriteRequest
	done chan writeResult // capacity 1
}

type writeResult struct {
	id  int64
	err error
}

// writeQueue bounds the requests that wait.
const writeQueue = 4096

// errBusy refuses a request when too many wait.
var errBusy = errors.New("too many write checkpoint requests are waiting")

func newWriteCheckpoints(source Source, batch int, meter prometheus.Observer) *writeCheckpoints {
	return &writeCheckpoints{source: source, batch: batch, meter: meter, queue: make(chan *writeRequest, writeQueue), ended: make(chan struct{})}
}

// request gives the number the user has after the request.
func (w *writeCheckpoints) request(ctx context.Context, user string, id int64) (held int64, err error) {
	ctx, span := millrace.ChildSpan(ctx, "relay.store_request")
	defer func() { span.End(err) }()
	began := time.Now()
	r := &writeRequest{WriteRequest: millrace.WriteRequest{User: user, ID: id}, done: make(chan writeResult, 1)}
	select {
	case w.queue <- r:
	default:
		return 0, errBusy
	}
	select {
	case res := <-r.done:
		w.meter.Observe(time.Since(began).Seconds())
		return res.id, res.err
	case <-w.ended:
		return 0, ErrUnavailable
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run serves requests until ctx ends.
func (w *writeCheckpoints) run(ctx context.Context) {
	defer close(w.ended)
	for {
		var batch []*writeRequest
		select {
		case <-ctx.Done():
			return
		case r := <-w.queue:
			batch = append(batch, r)
		}
		for more := true; more && len(batch) < w.batch; {
			select {
			case r := <-w.queue:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		requests := make([]millrace.WriteRequest, len(batch))
		for i, r := range batch {
			requests[i] = r.WriteRequest
		}
		ids, err := w.source.RequestWriteCheckpoints(ctx, requests)
		for i, r := range batch {
			res := writeResult{err: err}
			if err == nil {
				res.id = ids[i]
			}
			r.done <- res
		}
	}
}
