package decoder

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
)

// logBuffer is a log that several goroutines write.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// What `millrace validate` would have said is in the log, once.
func TestRulesAreCheckedAtDeploy(t *testing.T) {
	const rules = `
bucket_definitions:
  all:
    data:
      - SELECT id, v, gone FROM t
      - SELECT id FROM missing
`
	f := newFixture(t, pgtest.Shared(t), rules, "create table t(id int primary key, v int)", "insert into t values (1, 1)")
	var log logBuffer
	f.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	f.start()
	f.settled()
	for _, want := range []string{
		`msg="table t has no column gone"`, `line=5 column=23`, `msg="the source has no table public.missing"`,
		`msg="all rows of table t are synced to every user: no condition depends on the token"`,
	} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("the log says %s %d times:\n%s", want, n, &log)
		}
	}
}
