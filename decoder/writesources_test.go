package decoder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/sinktest"
	"github.com/millrace/millrace/internal/pgtest"
)

// requests is a sidecar in memory in which devices ask for write checkpoints.
type requests struct {
	*sinktest.Sidecar

	mu      sync.Mutex
	waiting []millrace.WriteRequest
	asked   chan struct{}
}

func (r *requests) ask(id int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = append(r.waiting, millrace.WriteRequest{User: fmt.Sprint("u", id), ID: id})
	select {
	case r.asked <- struct{}{}:
	default:
	}
}

func (r *requests) acknowledged(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !slices.ContainsFunc(r.waiting, func(w millrace.WriteRequest) bool { return w.ID == id })
}

func (r *requests) WatchWriteRequests(ctx context.Context, take func(context.Context, []millrace.WriteRequest) ([]millrace.SourcePosition, error)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.asked:
		}
		r.mu.Lock()
		list := slices.Clone(r.waiting)
		r.mu.Unlock()
		if _, err := take(ctx, list); err != nil && ctx.Err() == nil {
			select { // given again later
			case r.asked <- struct{}{}:
			default:
			}
		}
	}
}

func (r *requests) Commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error) {
	c, err := r.Sidecar.Commit(ctx, f)
	if err == nil {
		r.mu.Lock()
		r.waiting = slices.DeleteFunc(r.waiting, func(w millrace.WriteRequest) bool {
			return slices.ContainsFunc(f.Acknowledge, func(a millrace.WriteRequest) bool { return a.ID == w.ID })
		})
		r.mu.Unlock()
	}
	return c, err
}

// RA-51: a write checkpoint waits for the sources it is configured to wait for,
// and for no others; what is down is named.
func TestRA51_WriteCheckpointSources(t *testing.T) {
	for _, all := range []bool{false, true} {
		t.Run(fmt.Sprint("all ", all), func(t *testing.T) {
			away := pgtest.New(t, pgtest.Options{})
			s := newShards(t, pgtest.Shared(t), away)
			r := &requests{Sidecar: s.sidecar, asked: make(chan struct{}, 1)}
			if !all {
				s.config.WriteCheckpointSources = []string{"s0"}
			}
			s.term = startTerm(s.config, r)
			s.converges()
			r.ask(1)
			await := func(id int64) {
				t.Helper()
				pgtest.Eventually(t, 2*patience, func() error {
					if err := s.term.failed(); err != nil {
						t.Fatalf("the term ended: %v", err)
					}
					if !r.acknowledged(id) {
						return errors.New("the request is not acknowledged")
					}
					return nil
				})
			}
			await(1)
			_ = s.dbs[1].Close(context.Background())
			away.Kill(t)
			s.on(0, "insert into t values ('written', 1)")
			r.ask(2)
			if !all {
				await(2)
				return
			}
			pgtest.Eventually(t, patience, func() error {
				if report := s.sidecar.ReportOf(s.sidecar.Source("s1").ID); !strings.Contains(report.ErrorCode, "MR") {
					return fmt.Errorf("report %+v", report)
				}
				if len(s.content()["written"]) != 1 {
					return errors.New("the row of the source that is up is not there")
				}
				return nil
			})
			if r.acknowledged(2) {
				t.Error("a request was acknowledged although a source it waits for is down")
			}
			away.Start(t)
			s.dbs[1] = connect(t, s.uris[1])
			await(2)
		})
	}
}
