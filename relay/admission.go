package relay

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/millrace/millrace/protocol"
)

// addressesKept bounds the client addresses whose rate is remembered.
const addressesKept = 100_000

// addressRates limits how often each client address may connect. Safe for
// concurrent use.
type addressRates struct {
	perSecond rate.Limit
	burst     int
	trusted   []netip.Prefix
	now       func() time.Time

	mu   sync.Mutex
	seen map[netip.Prefix]*rate.Limiter
}

// burstSeconds is how long an address may have been silent to its advantage: a
// whole office comes back at once.
const burstSeconds = 10

func newAddressRates(perSecond int, trusted []netip.Prefix) *addressRates {
	return &addressRates{perSecond: rate.Limit(perSecond), burst: burstSeconds * perSecond, trusted: trusted, now: time.Now, seen: map[netip.Prefix]*rate.Limiter{}}
}

// allow counts a connection from the request's address.
func (a *addressRates) allow(req *http.Request) bool {
	if a.perSecond == 0 {
		return true
	}
	from := a.client(req)
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.seen[from]
	if l == nil {
		a.forget(now)
		l = rate.NewLimiter(a.perSecond, a.burst)
		a.seen[from] = l
	}
	return l.AllowN(now, 1)
}

// forget makes room: who has its whole burst again is as good as new. If all are
// at work nobody is remembered any more.
func (a *addressRates) forget(now time.Time) {
	if len(a.seen) < addressesKept {
		return
	}
	for from, l := range a.seen {
		if l.TokensAt(now) >= float64(a.burst) {
			delete(a.seen, from)
		}
	}
	if len(a.seen) >= addressesKept {
		clear(a.seen)
	}
}

// client is the address a request comes from: of IPv6 the /64, which one client
// has for itself. Behind trusted proxies it is the last address in
// X-Forwarded-For that is not one of them.
func (a *addressRates) client(req *http.Request) netip.Prefix {
	from := peer(req.RemoteAddr)
	hops := strings.Split(strings.Join(req.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && a.trusts(from); i-- {
		hop := peer(strings.TrimSpace(hops[i]))
		if !hop.IsValid() {
			break
		}
		from = hop
	}
	bits := from.BitLen()
	if from.Is6() {
		bits = 64
	}
	p, err := from.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // all that have no address are one
	}
	return p
}

func (a *addressRates) trusts(ip netip.Addr) bool {
	for _, p := range a.trusted {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// peer reads an address with or without a port.
func peer(text string) netip.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr().Unmap()
	}
	ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}

// admit refuses a request whose address connects too often; it has answered then.
func (r *Relay) admit(w http.ResponseWriter, req *http.Request) bool {
	if r.rates.allow(req) {
		return true
	}
	r.meters.refused.WithLabelValues("address").Inc()
	writeError(w, ending{code: protocol.CodeConnections, status: http.StatusTooManyRequests,
		text: "too many requests from this address: more than " + strconv.Itoa(int(r.rates.perSecond)) + " a second (relay.connects_per_address)"})
	return false
}
