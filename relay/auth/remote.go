package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"
)

// Timing of remote key sets.
const (
	fetchTimeout = 30 * time.Second
	fetchWait    = 3 * time.Second  // how long a request waits for a fetch
	freshFor     = 5 * time.Minute  // older sets are fetched again, beside
	usableFor    = 60 * time.Minute // older sets are not used
	missPause    = 5 * time.Second  // between fetches for unknown keys, doubled
	missPauseMax = 5 * time.Minute
	setMaxBytes  = 1 << 20
	setMaxKeys   = 100
	redirectsMax = 3
)

// remoteSet is a key set at a URL, fetched on use, by one fetch at a time.
type remoteSet struct {
	fetch func() ([]key, error)
	stop  context.CancelFunc
	group sync.WaitGroup
	// report is told when fetching begins to fail, and with nil when it works
	// again; nil if nobody wants to know.
	report func(error)
	terms  *terms // of its keys' tokens; nil for the usual ones

	mu      sync.Mutex
	set     []key
	fetched time.Time     // when set was read
	tried   time.Time     // when a fetch last began
	running chan struct{} // closed when the running fetch ends
	err     error         // of the last fetch
	pause   time.Duration // before the next fetch for an unknown key
}

// newRemoteSet is a set that nothing was fetched of yet. refuse tells which
// addresses ("ip:port") must not be asked, nil for none.
func newRemoteSet(text string, refuse func(address string) error) (*remoteSet, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("not an http or https URL")
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if refuse != nil {
		// On the address that is dialled: names and redirects cannot evade it.
		dialer.Control = func(_, address string, _ syscall.RawConn) error { return refuse(address) }
	}
	t := &http.Transport{DialContext: dialer.DialContext, MaxIdleConns: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second, Proxy: nil}
	if refuse == nil {
		t.Proxy = http.ProxyFromEnvironment // which would be asked instead
	}
	client := &http.Client{Transport: t, Timeout: fetchTimeout, CheckRedirect: checkRedirect}
	ctx, stop := context.WithCancel(context.Background())
	return &remoteSet{fetch: func() ([]key, error) { return fetch(ctx, client, text) }, stop: stop, pause: missPause}, nil
}

// checkRedirect follows few, and none that gives up encryption.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > redirectsMax:
		return fmt.Errorf("more than %d redirects", redirectsMax)
	case req.URL.Scheme != "https" && via[0].URL.Scheme == "https":
		return errors.New("a redirect from https to " + req.URL.Scheme)
	}
	return nil
}

// close ends a running fetch and waits for it.
func (r *remoteSet) close() {
	r.stop()
	r.group.Wait()
}

// errPrivate is in the chain of errors of key sets at addresses that are refused.
var errPrivate = errors.New("is a private address, which key sets are not fetched from unless that is allowed")

func refusePrivate(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	a := ap.Addr().Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || sharedRange.Contains(a) || nat64.Contains(a) {
		return fmt.Errorf("%s %w (auth.jwks_allow_private)", a, errPrivate)
	}
	return nil
}

var (
	sharedRange = netip.MustParsePrefix("100.64.0.0/10")
	nat64       = netip.MustParsePrefix("64:ff9b::/96")
)

// keys gives the set, fetching it first if there is none that may be used.
func (r *remoteSet) keys(ctx context.Context, now time.Time) ([]key, error) {
	r.mu.Lock()
	age := now.Sub(r.fetched)
	usable := !r.fetched.IsZero() && age < usableFor
	if usable {
		if age >= freshFor && now.Sub(r.tried) >= freshFor {
			r.start(now)
		}
		set := r.set
		r.mu.Unlock()
		return set, nil
	}
	if r.running == nil && now.Sub(r.tried) < missPause && r.err != nil {
		defer r.mu.Unlock()
		return nil, r.err
	}
	r.start(now)
	return r.wait(ctx)
}

// refetch gives the set anew for a token whose key is unknown, at most once per
// pause, which grows as long as that finds nothing.
func (r *remoteSet) refetch(ctx context.Context, now time.Time) ([]key, error) {
	r.mu.Lock()
	if r.running == nil {
		if now.Sub(r.tried) < r.pause {
			defer r.mu.Unlock()
			return nil, r.err // the set was tried already
		}
		r.pause = min(2*r.pause, missPauseMax)
		r.start(now)
	}
	return r.wait(ctx)
}

// hit says that refetching found a wanted key.
func (r *remoteSet) hit() {
	r.mu.Lock()
	r.pause = missPause
	r.mu.Unlock()
}

// start begins a fetch unless one runs; r.mu is held. The fetch ends by its own
// timeout and outlives the request that began it, since others wait for it too.
func (r *remoteSet) start(now time.Time) {
	if r.running != nil {
		return
	}
	done := make(chan struct{})
	r.running, r.tried = done, now
	r.group.Go(func() {
		set, err := r.fetch()
		for i := range set {
			set[i].terms = r.terms
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.report != nil && (err == nil) != (r.err == nil) {
			r.report(err)
		}
		r.err, r.running = err, nil
		if err == nil {
			r.set, r.fetched = set, now
		}
		close(done)
	})
}

// wait waits for the running fetch; r.mu is held and released.
func (r *remoteSet) wait(ctx context.Context) ([]key, error) {
	running := r.running
	r.mu.Unlock()
	timer := time.NewTimer(fetchWait)
	defer timer.Stop()
	select {
	case <-running:
	case <-timer.C:
		return nil, errors.New("the key set does not answer")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	return r.set, nil
}

func fetch(ctx context.Context, client *http.Client, address string) ([]key, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		// The address may hold a secret; whoever configured it knows it.
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err
		}
		return nil, fmt.Errorf("fetch the key set: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch the key set: status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, setMaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("fetch the key set: %w", err)
	}
	if len(body) > setMaxBytes {
		return nil, fmt.Errorf("the key set is larger than %d bytes", setMaxBytes)
	}
	return parseSet(body)
}

// parseSet reads a JWKS, leaving out keys that cannot be used.
func parseSet(body []byte) ([]key, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &doc); err != nil || doc.Keys == nil {
		return nil, errors.New("the key set is not a JSON object with keys")
	}
	var set []key
	for _, text := range doc.Keys {
		if k, err := parseKey(text, false); err == nil && len(set) < setMaxKeys {
			set = append(set, k)
		}
	}
	return set, nil
}
