// Package doctor looks at everything a Millrace needs from others (sources, the
// sidecar, key sets, the way to clients) and says what is wrong with it, each time
// with the exact SQL or setting that cures it. It changes nothing.
package doctor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/millrace/millrace/decoder/catalog"
)

// Level is how bad a finding is.
type Level string

// The levels, the worst first.
const (
	Fatal       Level = "fatal"       // it does not work like this
	Unreachable Level = "unreachable" // it could not be looked at
	Warn        Level = "warn"        // it works, with a risk
	OK          Level = "ok"          // looked at, nothing to say
)

var order = []Level{Fatal, Unreachable, Warn, OK}

// Finding is something a person should know.
type Finding struct {
	Level   Level  `json:"level"`
	About   string `json:"about"` // "source main", "sidecar", "relay", "key set https://…"
	Code    string `json:"code,omitempty"`
	Object  string `json:"object,omitempty"`
	Message string `json:"message"`
	// Cure is the SQL, the setting or the step that helps, for the provider at
	// hand; empty where nothing has to be done.
	Cure string `json:"cure,omitempty"`
}

// Config says what to look at.
type Config struct {
	Sources []Source
	// Sidecar and SidecarReplica are connection strings; the second may be empty.
	Sidecar, SidecarReplica string
	// KeySets are the URLs of remote key sets.
	KeySets []string
	// Relay is the address clients use, through all proxies; empty leaves it out.
	Relay string
	// Token is a valid token for it. Without one, buffering cannot be found.
	Token string
	// Timeout bounds each look. Default 15 s.
	Timeout time.Duration
}

// Source is a source to look at.
type Source struct {
	Name, URI, Slot, Publication string
	Failover                     bool
	// Slots are those of all sources.
	Slots []string
	// Uses and Named tell which tables the rules read: any, and those named
	// without wildcards. Uses may be nil.
	Uses  catalog.Match
	Named []catalog.TableName
}

// Examine looks at everything, at once. The findings are in the order of the
// configuration, the worst of each first. Only ctx's end is an error.
func Examine(ctx context.Context, c Config) ([]Finding, error) {
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	var looks []func(context.Context) []Finding
	for i := range c.Sources {
		looks = append(looks, func(ctx context.Context) []Finding { return examineSource(ctx, &c.Sources[i]) })
	}
	looks = append(looks, func(ctx context.Context) []Finding { return examineSidecar(ctx, &c) })
	for _, u := range c.KeySets {
		looks = append(looks, func(ctx context.Context) []Finding { return examineKeySet(ctx, u) })
	}
	if c.Relay != "" {
		looks = append(looks, func(ctx context.Context) []Finding { return examineRelay(ctx, c.Relay, c.Token) })
	}
	results := make([][]Finding, len(looks))
	var all sync.WaitGroup
	for i, look := range looks {
		all.Go(func() {
			bounded, cancel := context.WithTimeout(ctx, c.Timeout)
			defer cancel()
			results[i] = look(bounded)
		})
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, list := range results {
		slices.SortStableFunc(list, func(a, b Finding) int { return slices.Index(order, a.Level) - slices.Index(order, b.Level) })
	}
	return slices.Concat(results...), nil
}

// Worst is the worst level among findings.
func Worst(list []Finding) Level {
	worst := OK
	for _, f := range list {
		if slices.Index(order, f.Level) < slices.Index(order, worst) {
			worst = f.Level
		}
	}
	return worst
}

// report collects findings about one thing.
type report struct {
	about string
	list  []Finding
}

func (r *report) add(level Level, code, object, message, cure string) {
	r.list = append(r.list, Finding{Level: level, About: r.about, Code: code, Object: object, Message: message, Cure: cure})
}

// unreachable says that something could not be looked at.
func (r *report) unreachable(err error, cure string) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer in time")
	}
	r.add(Unreachable, "MR1001", "", err.Error(), cure)
}

// done says so if nothing is wrong.
func (r *report) done(message string) []Finding {
	if len(r.list) == 0 {
		r.add(OK, "", "", message, "")
	}
	return r.list
}
