package relay

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
)

func from(remote string, forwarded ...string) *http.Request {
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.RemoteAddr = remote
	for _, f := range forwarded {
		req.Header.Add("X-Forwarded-For", f)
	}
	return req
}

func TestClientAddress(t *testing.T) {
	a := newAddressRates(1, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")})
	for _, tc := range []struct {
		req  *http.Request
		want string
	}{
		{from("192.0.2.1:99"), "192.0.2.1/32"},
		{from("192.0.2.1:99", "198.51.100.7"), "192.0.2.1/32"}, // nobody may speak for others
		{from("10.1.1.1:99", "198.51.100.7"), "198.51.100.7/32"},
		{from("10.1.1.1:99", "203.0.113.5, 198.51.100.7, 10.2.2.2"), "198.51.100.7/32"}, // what a client claims does not count
		{from("10.1.1.1:99", "203.0.113.5", "198.51.100.7"), "198.51.100.7/32"},
		{from("10.1.1.1:99", "10.3.3.3"), "10.3.3.3/32"},
		{from("10.1.1.1:99", "198.51.100.7, nonsense"), "10.1.1.1/32"},
		{from("10.1.1.1:99"), "10.1.1.1/32"},
		{from("[2001:db8:1:2:3:4:5:6]:99"), "2001:db8:1:2::/64"},
		{from("[fd00::1]:99", "2001:db8:9:9::1"), "2001:db8:9:9::/64"},
		{from("[::ffff:192.0.2.1]:99"), "192.0.2.1/32"},
		{from("10.1.1.1:99", "198.51.100.7:4711"), "198.51.100.7/32"},
		{from("@"), "invalid Prefix"},
	} {
		if got := a.client(tc.req).String(); got != tc.want {
			t.Errorf("%s %v: %s, want %s", tc.req.RemoteAddr, tc.req.Header, got, tc.want)
		}
	}
}

// An address has its rate and a burst; others are not touched, and what is
// remembered is bounded.
func TestAddressRates(t *testing.T) {
	a := newAddressRates(2, nil)
	now := time.Unix(1_700_000_000, 0)
	a.now = func() time.Time { return now }
	allowed := func(remote string) (n int) {
		for range 100 {
			if a.allow(from(remote)) {
				n++
			}
		}
		return n
	}
	if n := allowed("192.0.2.1:1"); n != 20 {
		t.Errorf("a burst of %d, want 20", n)
	}
	now = now.Add(3 * time.Second)
	if n := allowed("192.0.2.1:2"); n != 6 {
		t.Errorf("%d after 3 s, want 6", n)
	}
	if n := allowed("192.0.2.2:1"); n != 20 {
		t.Errorf("another address: %d, want 20", n)
	}
	for i := range addressesKept + 10 {
		a.allow(from(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}).String() + ":1"))
		if len(a.seen) > addressesKept {
			t.Fatalf("%d addresses are remembered", len(a.seen))
		}
	}
	off := newAddressRates(0, nil)
	for range 1000 {
		if !off.allow(from("192.0.2.1:1")) {
			t.Fatal("limited, though there is no limit")
		}
	}
}
