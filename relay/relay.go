package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/auth"
)

// Config says how a relay serves. Zero fields get their defaults.
type Config struct {
	// Name says which process this is, for people.
	Name string
	// Listen is the address it is reached at, for people.
	Listen string
	Limits Limits
	// Verifier checks tokens. Required.
	Verifier *auth.Verifier
	// Compile compiles a stored rule set. CompileRules by default.
	Compile func(*millrace.RuleSet) (Rules, error)
	// Origins restricts the origins of browsers that may open a WebSocket
	// (host patterns); empty allows all: only tokens authorise, never cookies.
	Origins []string
	// Proxies are those whose X-Forwarded-For is believed.
	Proxies []netip.Prefix
	Log     *slog.Logger
	// Tracer records what tracing.go names; nil records nothing.
	Tracer millrace.Tracer
}

// Limits bound what a relay takes on. Zero fields get the defaults given.
type Limits struct {
	Connections     int   // 20,000
	PerUser         int   // 1,000 connections of one user (sub)
	PerAddress      int   // connections a second from one address; 0: any number
	BucketsPerUser  int   // 10,000 distinct buckets
	Followed        int   // 20,000,000 bucket subscriptions
	RequestBytes    int64 // 16 MiB after authentication, 1 MiB before
	NodeBytes       int   // 8 MiB; larger checkpoints are sent by pages
	RingBytes       int   // 64 MiB of nodes that slow sessions have not taken
	PageBytes       int64 // 256 MiB of pages being read and sent
	Reads           int   // 8 pages read at a time
	FrameBytes      int64 // 4 MiB, a WebSocket message of a client
	WriteTimeout    time.Duration
	ReportEvery     time.Duration // 10 s
	CheckpointBatch int           // 1,000 write checkpoint requests in one insert
}

func (l Limits) withDefaults() Limits {
	def(&l.Connections, 20_000)
	def(&l.PerUser, 1000)
	def(&l.BucketsPerUser, 10_000)
	def(&l.Followed, 20_000_000)
	def(&l.RequestBytes, 16<<20)
	def(&l.NodeBytes, 8<<20)
	def(&l.RingBytes, 64<<20)
	def(&l.PageBytes, 256<<20)
	def(&l.Reads, 8)
	def(&l.FrameBytes, 4<<20)
	def(&l.WriteTimeout, 30*time.Second)
	def(&l.ReportEvery, 10*time.Second)
	def(&l.CheckpointBatch, 1000)
	l.PageBytes = max(l.PageBytes, pageBytes)
	return l
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Relay serves clients. Its Handler works while Run runs.
type Relay struct {
	cfg       Config
	source    Source
	log       *slog.Logger
	limits    Limits
	meters    *meters
	publisher *publisher
	writes    *writeCheckpoints
	pages     *semaphore.Weighted
	reads     *semaphore.Weighted
	handler   http.Handler
	id        string
	started   time.Time
	nextID    atomic.Int64
	opening   atomic.Int64 // WebSockets without a session yet
	rates     *addressRates
	unasked   atomic.Int64 // UnixNano of the last warning of noteUnasked

	mu       sync.Mutex
	sessions map[*session]context.CancelFunc
	users    map[string]int // sessions by subject
	draining bool
	stopping chan struct{} // closed with draining
	group    sync.WaitGroup
}

// New prepares a relay; nothing runs yet.
func New(cfg Config, source Source) (*Relay, error) {
	if cfg.Verifier == nil {
		return nil, errors.New("relay: Verifier is required")
	}
	if cfg.Compile == nil {
		cfg.Compile = CompileRules
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	var id [8]byte
	rand.Read(id[:])
	r := &Relay{
		cfg: cfg, source: source, log: cfg.Log, limits: cfg.Limits.withDefaults(), meters: newMeters(),
		id: hex.EncodeToString(id[:]), started: time.Now(),
		sessions: map[*session]context.CancelFunc{}, users: map[string]int{}, stopping: make(chan struct{}),
	}
	r.rates = newAddressRates(r.limits.PerAddress, cfg.Proxies)
	r.publisher = newPublisher(source, cfg.Compile, r.limits, r.log, r.meters)
	r.publisher.tracer = cfg.Tracer
	r.writes = newWriteCheckpoints(source, r.limits.CheckpointBatch, r.meters.writes)
	r.pages = semaphore.NewWeighted(r.limits.PageBytes)
	r.reads = semaphore.NewWeighted(int64(r.limits.Reads))
	r.handler = r.routes()
	r.meters.watch(r)
	return r, nil
}

// Handler serves the endpoints of the sync protocol and the probes.
func (r *Relay) Handler() http.Handler { return r.handler }

// Ready tells why clients cannot be served at present, in words; nil if they can.
func (r *Relay) Ready() error {
	status := r.publisher.currentStatus()
	r.mu.Lock()
	draining := r.draining
	r.mu.Unlock()
	switch {
	case draining:
		return errors.New("it is shutting down")
	case status.err != nil:
		return status.err
	case !status.begun:
		return errors.New("the sidecar was not read yet")
	case status.head.RuleSet == 0:
		return errors.New("no sync rules are active yet: the first copy of the source may still be running")
	case status.rules != nil:
		return errors.New("the active sync rules cannot be served by this release: its log says why")
	}
	return nil
}

// Run works until ctx ends, then ends all sessions, telling them to reconnect,
// and returns once they are gone.
func (r *Relay) Run(ctx context.Context) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group sync.WaitGroup
	group.Go(func() {
		if err := r.publisher.run(inner); err != nil {
			r.log.Error("the publisher ended", "error", err)
		}
	})
	group.Go(func() { r.writes.run(inner) })
	group.Go(func() { r.report(inner) })
	<-ctx.Done()
	r.drain()
	stop()
	group.Wait()
	return nil
}

// errRestarting answers whoever is there, or comes, when the relay stops.
var errRestarting = ending{code: protocol.CodeRestarting, status: http.StatusServiceUnavailable, close: protocol.CloseRestarting, text: "the server is restarting"}

// drainTime is how long sessions get to be told to reconnect.
const drainTime = 5 * time.Second

// drain refuses new sessions and ends those there are.
func (r *Relay) drain() {
	r.mu.Lock()
	r.draining = true
	close(r.stopping)
	for s := range r.sessions {
		s.finish(errRestarting)
	}
	r.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		r.group.Wait()
		close(gone)
	}()
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-gone:
		return
	case <-timer.C:
	}
	r.mu.Lock()
	for s, cancel := range r.sessions {
		cancel()
		s.interrupt()
	}
	r.mu.Unlock()
	<-gone
}

// enter registers a session; the returned context ends with the relay or when
// leave is called, which must be.
func (r *Relay) enter(ctx context.Context, s *session) (_ context.Context, leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.draining:
		return nil, nil, errRestarting
	case len(r.sessions) >= r.limits.Connections:
		r.meters.refused.WithLabelValues("connections").Inc()
		return nil, nil, ending{code: protocol.CodeConnections, status: http.StatusTooManyRequests, close: protocol.CloseConnections, text: "too many connections (relay.max_connections)"}
	case r.users[s.subject] >= r.limits.PerUser:
		r.meters.refused.WithLabelValues("user").Inc()
		return nil, nil, ending{code: protocol.CodeConnections, status: http.StatusTooManyRequests, close: protocol.CloseConnections, text: "too many connections of this user (relay.max_connections_per_user)"}
	}
	ctx, cancel := context.WithCancel(ctx)
	s.id = r.nextID.Add(1)
	r.sessions[s] = cancel
	r.users[s.subject]++
	r.group.Add(1)
	s.meters.opened.Inc()
	s.meters.sessions.Inc()
	s.logOpened(ctx)
	return ctx, func() {
		cancel()
		r.mu.Lock()
		delete(r.sessions, s)
		if r.users[s.subject]--; r.users[s.subject] == 0 {
			delete(r.users, s.subject)
		}
		r.mu.Unlock()
		s.leave()
		s.logEnded(context.WithoutCancel(ctx))
		s.connected(s.whyLeft())
		s.meters.sessions.Dec()
		r.group.Done()
	}, nil
}

// newSession makes a session for a verified token and its request. Clients that
// did not ask for raw data get nested objects, where as is JSON.
func (r *Relay) newSession(token *auth.Token, req *protocol.Request, as protocol.Encoding, kind, agent string) *session {
	if as == protocol.JSON && !req.RawData {
		as = protocol.NestedJSON
	}
	s := &session{
		relay: r, kind: kind, agent: agent, subject: token.Subject, clientID: req.ClientID, user: writeUser(token.Subject, req.ClientID), since: time.Now(),
		core: newCore(req.Buckets, as), wake: make(chan struct{}, 1), expires: token.Expires,
		request: resolveRequest{rules: RulesRequest{Claims: token.Claims, Parameters: req.Parameters, Streams: req.Streams}},
		resolve: true, meters: r.meters.transport(kind),
	}
	s.ahead = s.core.ahead()
	return s
}

// writeUser names the counter of write checkpoints of a user's device.
func writeUser(subject, clientID string) string {
	if clientID == "" {
		return subject
	}
	return subject + "/" + clientID
}

// acquireRead waits for the right to read a page.
func (r *Relay) acquireRead(ctx context.Context) (release func(), err error) {
	if err := r.reads.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return func() { r.reads.Release(1) }, nil
}
