package e2e

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// What the real server says to those it does not serve: status, code and words
// over HTTP, close code and reason over the native WebSocket. Neither the
// tokens nor the keys get into its log.
func TestRefusals(t *testing.T) {
	d := newDemo(t, demoOptions{relay: "  max_request_bytes: 100KiB\n"})
	d.start()
	d.ready()
	sign := func(change func(k *signing)) string {
		s := signing{key: d.key, lifetime: time.Hour, at: time.Now()}
		change(&s)
		token, err := s.key.Sign("alice", nil, s.lifetime, s.at)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := sign(func(*signing) {})
	cut := strings.LastIndex(good, ".")
	request := string(relaytest.Request("c").AppendJSON(nil))
	for _, c := range []struct {
		name, token, request string
		status, close        int // 0: served
		code                 protocol.Code
		words                string
	}{
		{"served", good, request, 0, 0, "", ""},
		{"no token", "", request, 401, protocol.CloseUnauthorized, protocol.CodeNoToken, "token"},
		{"bad token", "nonsense", request, 401, protocol.CloseUnauthorized, protocol.CodeUnauthorized, "not a JWT"},
		{"forged", good[:cut+1] + strings.Repeat("A", len(good)-cut-1), request, 401, protocol.CloseUnauthorized, protocol.CodeSignature, "signature"},
		{"another's key", sign(func(s *signing) { s.key.Secret = []byte(strings.Repeat("k", 32)) }), request, 401, protocol.CloseUnauthorized, protocol.CodeSignature, "signature"},
		{"expired", sign(func(s *signing) { s.at = s.at.Add(-2 * time.Hour) }), request, 401, protocol.CloseUnauthorized, protocol.CodeTokenExpired, "expired"},
		{"lives too long", sign(func(s *signing) { s.lifetime = 48 * time.Hour }), request, 401, protocol.CloseUnauthorized, protocol.CodeTokenLifetime, "24h"},
		{"foreign audience", sign(func(s *signing) { s.key.Audience = "another-app" }), request, 401, protocol.CloseUnauthorized, protocol.CodeAudience, "another-app"},
		{"unknown kid", sign(func(s *signing) { s.key.ID = "rotated-away" }), request, 401, protocol.CloseUnauthorized, protocol.CodeUnauthorized, "rotated-away"},
		{"no JSON", good, "}", 400, protocol.CloseMalformed, protocol.CodeInvalid, ""},
		{"oversized", good, `{"client_id":"` + strings.Repeat("x", 5<<20) + `"}`, 413, protocol.CloseTooLarge, protocol.CodeInvalid, "bytes"},
	} {
		t.Run(c.name+"/http", func(t *testing.T) {
			body := c.request
			if len(body) > 200<<10 { // beyond the limit here already
				body = body[:200<<10]
			}
			resp, err := relaytest.Post(t.Context(), d.url, c.token, []byte(body), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Error("the answer has no CORS header: browsers would not show it")
			}
			if c.status == 0 {
				if resp.StatusCode != http.StatusOK {
					t.Errorf("status %d", resp.StatusCode)
				}
				return
			}
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			e, err := protocol.DecodeErrorBody(text)
			if err != nil || resp.StatusCode != c.status || e.Status != c.status || e.Code != c.code || !strings.Contains(e.Description, c.words) {
				t.Errorf("%d %s (%v), want %d %s with %q", resp.StatusCode, text, err, c.status, c.code, c.words)
			}
			t.Logf("%d %s", resp.StatusCode, text)
		})
		t.Run(c.name+"/websocket", func(t *testing.T) {
			code, reason := d.openSocket(t, c.token, c.request)
			if code != c.close || !strings.Contains(reason, string(c.code)) || !strings.Contains(reason, c.words) {
				t.Errorf("closed with %d %q, want %d with %s and %q", code, reason, c.close, c.code, c.words)
			}
			t.Logf("%d %s", code, reason)
		})
	}
	t.Run("write checkpoint", func(t *testing.T) {
		expired := sign(func(s *signing) { s.at = s.at.Add(-2 * time.Hour) })
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url+protocol.PathWriteCheckpoint+"?client_id=c", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+expired)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if e, bad := protocol.DecodeErrorBody(text); err != nil || bad != nil || resp.StatusCode != 401 || e.Code != protocol.CodeTokenExpired {
			t.Errorf("%d %s (%v)", resp.StatusCode, text, err)
		}
	})
	if log := d.process.log.text(); strings.Contains(log, good[:cut]) || strings.Contains(log, string(d.key.Secret)) {
		t.Errorf("the log holds a secret:\n%s", log)
	}
}

// signing is what a token is made with.
type signing struct {
	key      devserver.Key
	lifetime time.Duration
	at       time.Time
}

// openSocket opens the native WebSocket with a request and gives the code and
// reason it is closed with; 0 if it is served.
func (d *demoSystem) openSocket(t *testing.T, token, request string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitTimeout)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, strings.Replace(d.url, "http", "ws", 1)+protocol.PathWebSocket,
		&websocket.DialOptions{Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow() //nolint:errcheck // over already
	conn.SetReadLimit(-1)
	// The frame is the request with the token and the credit in it.
	frame := `{"open":` + strings.TrimSuffix(request, "}") + `,"token":"` + token + `","credit_bytes":1000000}}`
	if err := conn.Write(ctx, websocket.MessageText, []byte(frame)); err != nil {
		t.Logf("while sending: %v", err) // a server may refuse before it has read all
	}
	for {
		_, text, err := conn.Read(ctx)
		var closed websocket.CloseError
		switch {
		case errors.As(err, &closed):
			return int(closed.Code), closed.Reason
		case err != nil:
			t.Fatalf("the connection ended with %v", err)
		case strings.Contains(string(text), `"checkpoint_complete"`):
			return 0, ""
		}
	}
}
