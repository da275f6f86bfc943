package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace/millrace/protocol"
)

func keysOf(t testing.TB, list ...*signer) (out []json.RawMessage) {
	for _, s := range list {
		out = append(out, s.json(t))
	}
	return out
}

// TestKeyChoice: a kid that is known decides alone; others leave the keys
// without kid; algorithms must fit the key.
func TestKeyChoice(t *testing.T) {
	named, other, pinned := newSigner(t, "RS256", "a"), newSigner(t, "RS256", "b"), newSigner(t, "RS256", "p")
	pinned.jwk["alg"] = "RS512"
	open, open2, curve := newSigner(t, "HS256", ""), newSigner(t, "HS256", ""), newSigner(t, "ES256", "c")
	old, fresh := newSigner(t, "EdDSA", "twice"), newSigner(t, "EdDSA", "twice")
	v := verifier(t, Config{Keys: keysOf(t, named, other, pinned, open, open2, curve, old, fresh)})
	with := func(s *signer, alg string) *signer { // the key, another algorithm of its family
		c := *s
		c.method = newSigner(t, alg, "").method
		return &c
	}
	for _, c := range []struct {
		name, token string
		want        protocol.Code
	}{
		{"the named key", named.sign(t, "a", claims(nil)), ""},
		{"the named key alone", other.sign(t, "a", claims(nil)), protocol.CodeSignature},
		{"a named key is no key without kid", open.sign(t, "a", claims(nil)), protocol.CodeUnauthorized},
		{"another algorithm of the family", with(named, "RS384").sign(t, "a", claims(nil)), ""},
		{"another algorithm than the key names", pinned.sign(t, "p", claims(nil)), protocol.CodeUnauthorized},
		{"the algorithm the key names", with(pinned, "RS512").sign(t, "p", claims(nil)), ""},
		{"a symmetric algorithm of any length", with(open, "HS512").sign(t, "", claims(nil)), ""},
		{"the second key without kid", open2.sign(t, "", claims(nil)), ""},
		{"the second key without kid, unknown kid", open2.sign(t, "zzz", claims(nil)), ""},
		{"a kid that two keys have, old", old.sign(t, "twice", claims(nil)), ""},
		{"a kid that two keys have, fresh", fresh.sign(t, "twice", claims(nil)), ""},
		{"no kid, but the key has one", curve.sign(t, "", claims(nil)), protocol.CodeUnauthorized},
		{"a curve that is not the key's", newSigner(t, "ES384", "").sign(t, "c", claims(nil)), protocol.CodeUnauthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), c.token)
			if got := code(t, err); got != c.want {
				t.Errorf("code %q, want %q: %v", got, c.want, err)
			}
		})
	}
}

// TestClaimEdges: the last second that is accepted, and the first that is not.
func TestClaimEdges(t *testing.T) {
	s := newSigner(t, "HS256", "k")
	now := time.Unix(1_800_000_000, 0)
	at := now.Unix()
	for _, c := range []struct {
		name   string
		change map[string]any
		want   protocol.Code
	}{
		{"exp, 60 s ago", map[string]any{"iat": at - 100, "exp": at - 60}, ""},
		{"exp, 61 s ago", map[string]any{"iat": at - 100, "exp": at - 61}, protocol.CodeTokenExpired},
		{"nbf in 60 s", map[string]any{"nbf": at + 60}, ""},
		{"nbf in 61 s", map[string]any{"nbf": at + 61}, protocol.CodeUnauthorized},
		{"iat in 60 s", map[string]any{"iat": at + 60}, ""},
		{"iat in 61 s", map[string]any{"iat": at + 61}, protocol.CodeUnauthorized},
		{"lives for a day", map[string]any{"exp": at + 86400}, ""},
		{"lives a second longer", map[string]any{"exp": at + 86401}, protocol.CodeTokenLifetime},
		{"an old token that lived too long is too long", map[string]any{"iat": at - 90000, "exp": at - 1}, protocol.CodeTokenLifetime},
		{"fractions", map[string]any{"iat": float64(at) - 0.5, "exp": float64(at) + 0.5}, ""},
		{"negative exp", map[string]any{"exp": -1}, protocol.CodeUnauthorized},
		{"exp far beyond", map[string]any{"exp": 1e300}, protocol.CodeUnauthorized},
		{"exp null", map[string]any{"exp": json.RawMessage("null")}, protocol.CodeUnauthorized},
		{"nbf null", map[string]any{"nbf": json.RawMessage("null")}, ""},
		{"aud is a number", map[string]any{"aud": 1}, protocol.CodeAudience},
		{"aud is empty", map[string]any{"aud": []string{}}, protocol.CodeAudience},
		{"aud holds a number", map[string]any{"aud": []any{"millrace", 1}}, protocol.CodeAudience},
		{"aud by prefix", map[string]any{"aud": "millrace2"}, protocol.CodeAudience},
		{"sub null", map[string]any{"sub": json.RawMessage("null")}, protocol.CodeUnauthorized},
		{"sub too long", map[string]any{"sub": strings.Repeat("x", 1025)}, protocol.CodeUnauthorized},
		{"sub with a zero", map[string]any{"sub": "a\x00b"}, protocol.CodeUnauthorized},
		{"parameters", map[string]any{"parameters": map[string]any{"a": 1}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := verifier(t, Config{Keys: keysOf(t, s)})
			v.now = func() time.Time { return now }
			all := map[string]any{"sub": "alice", "aud": "millrace", "iat": at, "exp": at + 3600}
			for name, value := range c.change {
				all[name] = value
			}
			_, err := v.Verify(t.Context(), s.sign(t, "k", all))
			if got := code(t, err); got != c.want {
				t.Errorf("code %q, want %q: %v", got, c.want, err)
			}
		})
	}
}

// TestNoAudienceAcceptsNothing: neither a token with one nor one without.
func TestNoAudienceAcceptsNothing(t *testing.T) {
	s := newSigner(t, "HS256", "k")
	v := verifier(t, Config{Keys: keysOf(t, s), Audience: []string{}})
	for _, aud := range []any{"", "millrace", nil} {
		if c := code(t, second(v.Verify(t.Context(), s.sign(t, "k", claims(map[string]any{"aud": aud}))))); c != protocol.CodeAudience {
			t.Errorf("audience %v gives %q", aud, c)
		}
	}
}

func TestLifetimeIsConfigured(t *testing.T) {
	s := newSigner(t, "HS256", "k")
	v := verifier(t, Config{Keys: keysOf(t, s), MaxLifetime: time.Minute})
	now := time.Now().Unix()
	for exp, want := range map[int64]protocol.Code{now + 60: "", now + 61: protocol.CodeTokenLifetime} {
		if c := code(t, second(v.Verify(t.Context(), s.sign(t, "k", claims(map[string]any{"iat": now, "exp": exp}))))); c != want {
			t.Errorf("%d s give %q, want %q", exp-now, c, want)
		}
	}
}

// TestCriticalExtensions: what a token's header calls critical and is unknown
// refuses the token.
func TestCriticalExtensions(t *testing.T) {
	s := newSigner(t, "HS256", "k")
	v := verifier(t, Config{Keys: keysOf(t, s)})
	parts := strings.Split(s.sign(t, "k", claims(nil)), ".")
	parts[0] = b64.EncodeToString([]byte(`{"alg":"HS256","kid":"k","crit":["b64"]}`))
	sig, err := s.method.Sign(parts[0]+"."+parts[1], s.key)
	if err != nil {
		t.Fatal(err)
	}
	parts[2] = b64.EncodeToString(sig)
	if c := code(t, second(v.Verify(t.Context(), strings.Join(parts, ".")))); c != protocol.CodeUnauthorized {
		t.Errorf("code %q", c)
	}
}

// TestKeysOfASet: what else a set holds does no harm.
func TestKeysOfASet(t *testing.T) {
	good, encrypting, wrapping := newSigner(t, "RS256", "1"), newSigner(t, "RS256", "2"), newSigner(t, "RS256", "3")
	encrypting.jwk["use"] = "enc"
	wrapping.jwk["key_ops"] = []string{"wrapKey"}
	good.jwk["use"], good.jwk["key_ops"] = "sig", []string{"verify"}
	strange := &signer{jwk: map[string]any{"kty": "LMS", "kid": "4"}}
	iss := newIssuer(t, encrypting, wrapping, strange, good)
	v := verifier(t, Config{JWKSURLs: []string{iss.url}, AllowPrivate: true})
	if _, err := v.Verify(t.Context(), good.sign(t, "1", claims(nil))); err != nil {
		t.Error(err)
	}
	for _, s := range []*signer{encrypting, wrapping} {
		if c := code(t, second(v.Verify(t.Context(), s.sign(t, s.jwk["kid"].(string), claims(nil))))); c != protocol.CodeUnauthorized {
			t.Errorf("a key for %v gives %q", s.jwk, c)
		}
	}
}

// TestUnusableSets: each is an error with its reason, and the code of a source
// that does not answer.
func TestUnusableSets(t *testing.T) {
	s := newSigner(t, "ES256", "1")
	token := s.sign(t, "1", claims(nil))
	for name, answer := range map[string]http.HandlerFunc{
		"not found":      http.NotFound,
		"not JSON":       func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"no keys":        func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") },
		"too large":      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", setMaxBytes+1)) },
		"redirects on":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) },
		"hangs up early": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(answer)
			defer srv.Close()
			v := verifier(t, Config{JWKSURLs: []string{srv.URL + "/set?secret=s3cr3t"}, AllowPrivate: true})
			_, err := v.Verify(t.Context(), token)
			if c := code(t, err); c != protocol.CodeKeySource {
				t.Errorf("code %q: %v", c, err)
			}
			if strings.Contains(fmt.Sprint(err, v.remote[0].err), "s3cr3t") {
				t.Errorf("the address is told: %v, %v", err, v.remote[0].err)
			}
		})
	}
}

// TestGuardOfAddresses: whatever name or redirect leads there, an address that is
// refused is never asked.
func TestGuardOfAddresses(t *testing.T) {
	s := newSigner(t, "ES256", "1")
	private := newIssuer(t, s)
	token := s.sign(t, "1", claims(nil))
	port := private.url[strings.LastIndex(private.url, ":")+1:]

	// A name: it is the address it stands for that counts.
	v := verifier(t, Config{JWKSURLs: []string{"http://localhost:" + port}})
	if c := code(t, second(v.Verify(t.Context(), token))); c != protocol.CodePrivateKeySource {
		t.Errorf("a name of a private address gives %q", c)
	}

	// A redirect from where it is allowed.
	public := httptest.NewServer(http.RedirectHandler(private.url, http.StatusFound))
	defer public.Close()
	set, err := newRemoteSet(public.URL, func(address string) error {
		if strings.HasSuffix(address, ":"+port) {
			return errPrivate
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer set.close()
	if keys, err := set.keys(t.Context(), time.Now()); !errors.Is(err, errPrivate) {
		t.Errorf("a redirect to a private address gives %v, %v", keys, err)
	}
	if n := private.asked.Load(); n != 0 {
		t.Errorf("it was asked %d times", n)
	}

	// One that gives up encryption.
	from, err := http.NewRequest("GET", "https://a.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	to, err := http.NewRequest("GET", "http://a.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if checkRedirect(to, []*http.Request{from}) == nil || checkRedirect(from, []*http.Request{to}) != nil {
		t.Error("a redirect from https to http is followed, or the other way is not")
	}
}

// TestManyUnknownKeysAtOnce: however many tokens with unknown keys come, one
// fetch answers them.
func TestManyUnknownKeysAtOnce(t *testing.T) {
	known, unknown := newSigner(t, "ES256", "1"), newSigner(t, "ES256", "2")
	iss := newIssuer(t, known)
	v := verifier(t, Config{JWKSURLs: []string{iss.url}, AllowPrivate: true})
	now := time.Now()
	v.now = func() time.Time { return now }
	token := unknown.sign(t, "2", claims(nil))
	var group sync.WaitGroup
	var wrong atomic.Int32
	for range 50 {
		group.Go(func() {
			if c := code(t, second(v.Verify(t.Context(), token))); c != protocol.CodeUnauthorized {
				wrong.Add(1)
			}
		})
	}
	group.Wait()
	if n := iss.asked.Load(); n > 2 || wrong.Load() != 0 {
		t.Errorf("asked %d times, %d wrong answers", n, wrong.Load())
	}
	// One issuer that does not answer does not hurt the keys of another.
	dead := newIssuer(t)
	dead.status.Store(500)
	v = verifier(t, Config{JWKSURLs: []string{dead.url, iss.url}, Keys: keysOf(t, newSigner(t, "HS256", "h")), AllowPrivate: true})
	if _, err := v.Verify(t.Context(), known.sign(t, "1", claims(nil))); err != nil {
		t.Error(err)
	}
}

// TestKeySetTroubleIsLogged: once when it begins, once when it ends.
func TestKeySetTroubleIsLogged(t *testing.T) {
	s := newSigner(t, "ES256", "1")
	iss := newIssuer(t, s)
	iss.status.Store(500)
	var log strings.Builder
	v := verifier(t, Config{JWKSURLs: []string{iss.url}, AllowPrivate: true, Log: slog.New(slog.NewTextHandler(&log, nil))})
	now := time.Now()
	v.now = func() time.Time { return now }
	token := s.sign(t, "1", claims(nil))
	for range 3 {
		if c := code(t, second(v.Verify(t.Context(), token))); c != protocol.CodeKeySource {
			t.Errorf("code %q", c)
		}
		now = now.Add(missPauseMax)
	}
	iss.status.Store(0)
	if _, err := v.Verify(t.Context(), s.sign(t, "1", claims(map[string]any{"iat": now.Unix(), "exp": now.Unix() + 60}))); err != nil {
		t.Error(err)
	}
	v.Close()
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || strings.Count(got, "level=INFO") != 1 || !strings.Contains(got, "auth.jwks_uris[0]") || !strings.Contains(got, "status 500") {
		t.Errorf("logged\n%s", got)
	}
}
