package decoder

import (
	"context"
	"sync/atomic"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/store"
)

// faultySidecar is the store of one term. The call that counts the counter down
// to zero fails, before or after the store has done it: the decoder has crashed
// there.
type faultySidecar struct {
	*store.Writer
	calls *atomic.Int64
}

// around makes a call that may be the one that fails. Every second time it fails
// when it is done.
func (s *faultySidecar) around(call func() error) error {
	left := s.calls.Add(-1)
	if left == 0 {
		return errCrash
	}
	err := call()
	if left == 1 && err == nil {
		s.calls.Store(0)
		return errCrash
	}
	return err
}

func (s *faultySidecar) Apply(ctx context.Context, changes []millrace.Change) error {
	return s.around(func() error { return s.Writer.Apply(ctx, changes) })
}

func (s *faultySidecar) Wide(ctx context.Context, rows []millrace.RowRef) (records [][]byte, err error) {
	err = s.around(func() error {
		records, err = s.Writer.Wide(ctx, rows)
		return err
	})
	return records, err
}

func (s *faultySidecar) Commit(ctx context.Context, f *millrace.Flush) (c millrace.Checkpoint, err error) {
	err = s.around(func() error {
		c, err = s.Writer.Commit(ctx, f)
		return err
	})
	return c, err
}

func (s *faultySidecar) SaveSource(ctx context.Context, source *millrace.Source) error {
	return s.around(func() error { return s.Writer.SaveSource(ctx, source) })
}

func (s *faultySidecar) SaveTable(ctx context.Context, table *millrace.SourceTable) error {
	return s.around(func() error { return s.Writer.SaveTable(ctx, table) })
}

func (s *faultySidecar) Deploy(ctx context.Context, content string, defs []millrace.Definition) (set *millrace.RuleSet, err error) {
	err = s.around(func() error {
		set, err = s.Writer.Deploy(ctx, content, defs)
		return err
	})
	return set, err
}

func (s *faultySidecar) AnswerRules(ctx context.Context, a millrace.RuleAnswer) (set *millrace.RuleSet, err error) {
	err = s.around(func() error {
		set, err = s.Writer.AnswerRules(ctx, a)
		return err
	})
	return set, err
}

func (s *faultySidecar) RestartHistory(ctx context.Context, r millrace.HistoryRestart) error {
	return s.around(func() error { return s.Writer.RestartHistory(ctx, r) })
}
