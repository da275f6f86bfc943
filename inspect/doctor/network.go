package doctor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const maxKeySet = 1 << 20

// client follows no redirects: what an identity provider redirects to may be
// anything.
var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// withoutSecrets is an address that may be shown.
func withoutSecrets(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "(not a URL)"
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// plain leaves the address out of an error of the HTTP client, which quotes it.
func plain(err error) error {
	if e, ok := err.(*url.Error); ok { //nolint:errorlint // always the outermost
		return e.Err
	}
	return err
}

// examineKeySet fetches a remote key set as the relay will.
func examineKeySet(ctx context.Context, address string) []Finding {
	r := &report{about: "key set " + withoutSecrets(address)}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		r.add(Fatal, "", "auth.jwks_uris", "it is no URL", "write it as https://…")
		return r.list
	}
	asked := time.Now()
	response, err := client.Do(request)
	if err != nil {
		r.unreachable(plain(err), "let relays connect to it: DNS, firewall, proxy; no token can be verified without it")
		return r.list
	}
	defer response.Body.Close()
	answered := time.Now()
	if request.URL.Scheme != "https" {
		r.add(Warn, "", "auth.jwks_uris", "it is fetched without encryption: whoever is between can sign tokens", "use https")
	}
	var set struct {
		Keys []struct{ Kty, Alg, Kid string }
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeySet))
	switch {
	case err != nil:
		r.unreachable(plain(err), "")
	case response.StatusCode/100 == 3:
		r.add(Fatal, "", "auth.jwks_uris", "it redirects to "+withoutSecrets(response.Header.Get("Location")), "configure that address, if it is right")
	case response.StatusCode != http.StatusOK:
		r.add(Fatal, "", "auth.jwks_uris", "it answers "+response.Status, "check the path: it often ends in /.well-known/jwks.json")
	case json.Unmarshal(body, &set) != nil:
		r.add(Fatal, "", "auth.jwks_uris", "it answers with something else than a JSON key set", "check the path: it often ends in /.well-known/jwks.json")
	case len(set.Keys) == 0:
		r.add(Fatal, "", "auth.jwks_uris", "it has no keys: every token is refused", "make a signing key at the identity provider")
	}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		// It has whole seconds.
		r.skew(date, asked.Truncate(time.Second), answered.Add(time.Second))
	}
	return r.done(fmt.Sprintf("%d keys", len(set.Keys)))
}

// firstLine is how long the first line of a stream may take: it is sent at once.
const firstLine = 8 * time.Second

// examineRelay looks at the address of clients from where it is run: whether it is
// reached, whether WebSockets come through, and, with a token, whether lines of a
// stream come through as they are sent.
func examineRelay(ctx context.Context, address, token string) []Finding {
	base := strings.TrimRight(address, "/")
	r := &report{about: "relay " + withoutSecrets(base)}
	response, err := get(ctx, base+"/probes/liveness", nil)
	if err != nil {
		r.unreachable(plain(err), "check DNS, certificate, proxy and that a relay listens (relay.listen)")
		return r.list
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		r.add(Fatal, "", "/probes/liveness", "it answers "+response.Status, "let the proxy pass all paths to the relay: /sync/, /write-checkpoint2.json, /probes/")
		return r.list
	}
	r.webSocket(ctx, base)
	if token == "" {
		r.add(Warn, "", "buffering", "without a token it cannot be seen whether a proxy holds lines back", "run it with --token, or with a key of type oct in auth.keys")
	} else {
		r.stream(ctx, base, token)
	}
	return r.done("WebSockets and streams come through")
}

func get(ctx context.Context, address string, header map[string]string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		request.Header.Set(k, v)
	}
	return client.Do(request)
}

// webSocket asks for an upgrade. Without a token the relay refuses it in its
// own words; a proxy that does not know upgrades answers otherwise.
func (r *report) webSocket(ctx context.Context, base string) {
	response, err := get(ctx, base+"/sync/ws", map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	})
	if err != nil {
		r.unreachable(plain(err), "let the proxy pass WebSocket upgrades")
		return
	}
	_ = response.Body.Close()
	switch response.StatusCode {
	case http.StatusSwitchingProtocols, http.StatusUnauthorized:
	case http.StatusUpgradeRequired, http.StatusBadRequest:
		r.add(Fatal, "", "/sync/ws", "the upgrade to a WebSocket does not come through: "+response.Status,
			"nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\"; proxy_read_timeout 1h;")
	default:
		r.add(Fatal, "", "/sync/ws", "the upgrade to a WebSocket is answered with "+response.Status, "let the proxy pass /sync/ to the relay")
	}
}

// stream opens a stream and waits for its first line, which the relay sends at
// once and follows by nothing for a while: a proxy that collects a buffer holds
// it back.
func (r *report) stream(ctx context.Context, base, token string) {
	ctx, cancel := context.WithTimeout(ctx, firstLine)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/sync/stream", bytes.NewReader([]byte(`{"buckets":[],"include_checksum":true,"raw_data":true}`)))
	if err != nil {
		r.unreachable(err, "")
		return
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	held := "nginx: proxy_buffering off; gzip off for application/x-ndjson; Apache: SetEnv proxy-sendchunked; Cloudflare: no buffering or caching rule for /sync/; a load balancer: no response buffering, idle timeout above 60 s"
	response, err := client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			r.add(Fatal, "", "buffering", "the headers of a stream do not arrive: a proxy waits for the end of the response", held)
			return
		}
		r.unreachable(plain(err), "")
		return
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized:
		r.add(Warn, "", "token", "the relay refuses the token, so that buffering cannot be seen", "give a valid one with --token; see also clock and audience")
		return
	default:
		r.add(Fatal, "", "/sync/stream", "it answers "+response.Status, "see /probes/readiness: it says why a relay cannot serve")
		return
	}
	if _, err := bufio.NewReader(response.Body).ReadBytes('\n'); err != nil {
		r.add(Fatal, "", "buffering", fmt.Sprintf("the first line of a stream does not arrive within %v: a proxy holds it back", firstLine), held)
	}
}
