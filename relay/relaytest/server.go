package relaytest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/auth"
)

const secret = "relaytest-secret-of-32-bytes-ok!"

// Audience is what the server's tokens are for.
const Audience = "millrace"

// Key is the server's JWK.
func Key() json.RawMessage {
	return json.RawMessage(`{"kty":"oct","alg":"HS256","kid":"test","k":"` + base64.RawURLEncoding.EncodeToString([]byte(secret)) + `"}`)
}

// Token signs a token for a user that the server accepts.
func Token(sub string, ttl time.Duration) string {
	return Sign(map[string]any{"sub": sub, "aud": Audience, "iat": time.Now().Unix(), "exp": time.Now().Add(ttl).Unix()})
}

// Sign signs any claims with the server's key.
func Sign(claims map[string]any) string {
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(claims))
	t.Header["kid"] = "test"
	s, err := t.SignedString([]byte(secret))
	if err != nil {
		panic(err) // the key is a constant
	}
	return s
}

// Server is a relay over HTTP.
type Server struct {
	URL   string
	Relay *relay.Relay
	stop  func()
}

// Options adjust a Server.
type Options struct {
	Limits relay.Limits
	Log    *slog.Logger
	Tracer millrace.Tracer
}

// Serve runs a relay over the sidecar until the test ends.
func Serve(tb testing.TB, side *Sidecar, options ...Options) *Server {
	tb.Helper()
	var o Options
	if len(options) > 0 {
		o = options[0]
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	verifier, err := auth.New(auth.Config{Keys: []json.RawMessage{Key()}, Audience: []string{Audience}})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := relay.New(relay.Config{Name: tb.Name(), Verifier: verifier, Compile: compile, Limits: o.Limits, Log: o.Log, Tracer: o.Tracer}, side)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	h := httptest.NewServer(r.Handler())
	s := &Server{URL: h.URL, Relay: r}
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("relay: %v", err)
		}
		// Streams that ended in order get their last bytes out.
		grace, done := context.WithTimeout(context.Background(), 5*time.Second)
		h.Config.Shutdown(grace) // after the time, or an error, the connections are closed
		done()
		h.CloseClientConnections()
		h.Close()
		verifier.Close()
	}
	tb.Cleanup(s.stop)
	return s
}

// Stop ends the relay and its listener; clients are told to reconnect.
func (s *Server) Stop() { s.stop() }

// Token is a token for a user, valid for an hour.
func (*Server) Token(sub string) string { return Token(sub, time.Hour) }

// Compile compiles the fixed rules, for a relay of the test's own making.
func Compile(set *millrace.RuleSet) (relay.Rules, error) { return compile(set) }
