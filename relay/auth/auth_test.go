package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace/protocol"
)

var b64 = base64.RawURLEncoding

// signer is a private key with its JWK.
type signer struct {
	method jwt.SigningMethod
	key    any
	jwk    map[string]any
}

func newSigner(t testing.TB, alg, kid string) *signer {
	t.Helper()
	s := &signer{method: jwt.GetSigningMethod(alg), jwk: map[string]any{}}
	if kid != "" {
		s.jwk["kid"] = kid
	}
	coord := func(n *big.Int, size int) string { return b64.EncodeToString(n.FillBytes(make([]byte, size))) }
	switch alg[:2] {
	case "HS":
		secret := make([]byte, 64)
		rand.Read(secret)
		s.key, s.jwk["kty"], s.jwk["k"] = secret, "oct", b64.EncodeToString(secret)
	case "RS":
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		s.key, s.jwk["kty"], s.jwk["n"], s.jwk["e"] = k, "RSA", b64.EncodeToString(k.N.Bytes()), "AQAB"
	case "ES":
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		size := (curve.Params().BitSize + 7) / 8
		s.key, s.jwk["kty"], s.jwk["crv"] = k, "EC", curve.Params().Name
		point, err := k.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		s.jwk["x"], s.jwk["y"] = coord(new(big.Int).SetBytes(point[1:1+size]), size), coord(new(big.Int).SetBytes(point[1+size:]), size)
	default:
		pub, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s.key, s.jwk["kty"], s.jwk["crv"], s.jwk["x"] = k, "OKP", "Ed25519", b64.EncodeToString(pub)
	}
	return s
}

func (s *signer) json(t testing.TB) json.RawMessage {
	b, err := json.Marshal(s.jwk)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (s *signer) sign(t testing.TB, kid string, claims map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, jwt.MapClaims(claims))
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func claims(change map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{"sub": "alice", "aud": "millrace", "iat": now, "exp": now + 3600}
	for k, v := range change {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

func verifier(t testing.TB, cfg Config) *Verifier {
	t.Helper()
	if cfg.Audience == nil {
		cfg.Audience = []string{"millrace", "other"}
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func code(t testing.TB, err error) protocol.Code {
	t.Helper()
	if err == nil {
		return ""
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is not an *Error", err)
	}
	if e.Status() != http.StatusUnauthorized {
		t.Errorf("status %d", e.Status())
	}
	return e.Code
}

func TestEveryAlgorithm(t *testing.T) {
	for _, alg := range algorithms {
		t.Run(alg, func(t *testing.T) {
			s := newSigner(t, alg, "k")
			v := verifier(t, Config{Keys: []json.RawMessage{s.json(t)}})
			token := s.sign(t, "k", claims(nil))
			got, err := v.Verify(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			if got.Subject != "alice" || time.Until(got.Expires) < 59*time.Minute || !json.Valid(got.Claims) {
				t.Errorf("token %+v", got)
			}
			parts := strings.Split(token, ".")
			parts[1] = b64.EncodeToString([]byte(`{"sub":"mallory","aud":"millrace","iat":1,"exp":9999999999}`))
			if c := code(t, second(v.Verify(t.Context(), strings.Join(parts, ".")))); c != protocol.CodeSignature {
				t.Errorf("a changed payload gives %q", c)
			}
		})
	}
}

func second[A, B any](_ A, b B) B { return b }

func TestPolicy(t *testing.T) {
	hs := newSigner(t, "HS256", "k")
	noKid := newSigner(t, "HS256", "")
	rs := newSigner(t, "RS256", "r")
	v := verifier(t, Config{Keys: []json.RawMessage{hs.json(t), noKid.json(t), rs.json(t)}, Issuer: ""})
	now := time.Now().Unix()
	none := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(claims(nil)))
	none.Header["kid"] = "k"
	unsigned, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	// The public RSA key used as an HMAC secret: the classic confusion.
	confused := &signer{method: jwt.SigningMethodHS256, key: []byte(rs.json(t))}
	for _, c := range []struct {
		name, token string
		want        protocol.Code
		words       string
	}{
		{"good", hs.sign(t, "k", claims(nil)), "", ""},
		{"several audiences", hs.sign(t, "k", claims(map[string]any{"aud": []string{"x", "other"}})), "", ""},
		{"key without kid, token with another kid", noKid.sign(t, "whatever", claims(nil)), "", ""},
		{"key without kid, token without", noKid.sign(t, "", claims(nil)), "", ""},
		{"expired within tolerance", hs.sign(t, "k", claims(map[string]any{"exp": now - 30, "iat": now - 60})), "", ""},
		{"empty", "", protocol.CodeNoToken, "no token"},
		{"not a token", "abc", protocol.CodeUnauthorized, "not a JWT"},
		{"bad base64", "a!.b.c", protocol.CodeUnauthorized, "header is not base64url"},
		{"too long", strings.Repeat("a", maxTokenBytes+1), protocol.CodeUnauthorized, "longer than"},
		{"none", unsigned, protocol.CodeUnauthorized, "algorithm"},
		{"kid of a key of another type", hs.sign(t, "r", claims(nil)), protocol.CodeUnauthorized, "signed with HS256"},
		{"public key as a secret", confused.sign(t, "r", claims(nil)), protocol.CodeUnauthorized, "signed with HS256"},
		{"unknown kid, foreign key", newSigner(t, "RS256", "").sign(t, "zzz", claims(nil)), protocol.CodeUnauthorized, `kid "zzz"`},
		{"known kid, foreign key", newSigner(t, "HS256", "").sign(t, "k", claims(nil)), protocol.CodeSignature, "does not verify"},
		{"expired", hs.sign(t, "k", claims(map[string]any{"exp": now - 90, "iat": now - 3600})), protocol.CodeTokenExpired, "expired at"},
		{"no exp", hs.sign(t, "k", claims(map[string]any{"exp": nil})), protocol.CodeUnauthorized, "exp is missing"},
		{"no iat", hs.sign(t, "k", claims(map[string]any{"iat": nil})), protocol.CodeUnauthorized, "iat is missing"},
		{"no sub", hs.sign(t, "k", claims(map[string]any{"sub": nil})), protocol.CodeUnauthorized, "sub is missing"},
		{"empty sub", hs.sign(t, "k", claims(map[string]any{"sub": ""})), protocol.CodeUnauthorized, "sub is empty"},
		{"no aud", hs.sign(t, "k", claims(map[string]any{"aud": nil})), protocol.CodeAudience, "no audience"},
		{"foreign aud", hs.sign(t, "k", claims(map[string]any{"aud": "theirs"})), protocol.CodeAudience, `"theirs"`},
		{"lives too long", hs.sign(t, "k", claims(map[string]any{"exp": now + 90000})), protocol.CodeTokenLifetime, "24h0m0s"},
		{"not yet", hs.sign(t, "k", claims(map[string]any{"nbf": now + 90})), protocol.CodeUnauthorized, "nbf"},
		{"from the future", hs.sign(t, "k", claims(map[string]any{"iat": now + 90})), protocol.CodeUnauthorized, "in the future"},
		{"exp is a text", hs.sign(t, "k", claims(map[string]any{"exp": "soon"})), protocol.CodeUnauthorized, "exp is not a time"},
		{"parameters not an object", hs.sign(t, "k", claims(map[string]any{"parameters": 3})), protocol.CodeUnauthorized, "parameters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := v.Verify(t.Context(), c.token)
			if got := code(t, err); got != c.want {
				t.Fatalf("code %q, want %q: %v", got, c.want, err)
			}
			if err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %q does not say %q", err, c.words)
			}
			if err != nil && len(c.token) > 40 && strings.Contains(err.Error(), c.token[len(c.token)-30:]) {
				t.Errorf("error %q holds the token", err)
			}
		})
	}
}

func TestIssuer(t *testing.T) {
	s := newSigner(t, "HS256", "k")
	v := verifier(t, Config{Keys: []json.RawMessage{s.json(t)}, Issuer: "me"})
	if c := code(t, second(v.Verify(t.Context(), s.sign(t, "k", claims(map[string]any{"iss": "you"}))))); c != protocol.CodeUnauthorized {
		t.Errorf("foreign issuer gives %q", c)
	}
	if _, err := v.Verify(t.Context(), s.sign(t, "k", claims(map[string]any{"iss": "me"}))); err != nil {
		t.Error(err)
	}
}

func TestSubjectsAreTexts(t *testing.T) {
	s := newSigner(t, "HS256", "k")
	v := verifier(t, Config{Keys: []json.RawMessage{s.json(t)}})
	for _, c := range []struct {
		sub  any
		want string
	}{{"u", "u"}, {json.Number("12345678901234567890"), "12345678901234567890"}, {true, "1"}, {false, "0"}, {[]any{"a", 1}, `["a",1]`}} {
		got, err := v.Verify(t.Context(), s.sign(t, "k", claims(map[string]any{"sub": c.sub})))
		if err != nil || got.Subject != c.want {
			t.Errorf("sub %v gives %+v, %v", c.sub, got, err)
		}
	}
}

func TestBadKeysAreRefused(t *testing.T) {
	for _, c := range []struct{ key, words string }{
		{`"x"`, "not a JSON Web Key"},
		{`{}`, "kty is missing"},
		{`{"kty":"oct","k":"c2hvcnQ"}`, "needs at least 16"},
		{`{"kty":"oct","k":"====="}`, "base64url"},
		{`{"kty":"RSA","n":"AQAB","e":"AQAB"}`, "RSA key of 17 bits"},
		{`{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`, "no point of P-256"},
		{`{"kty":"EC","crv":"secp256k1"}`, "not supported"},
		{`{"kty":"OKP","crv":"Ed448","x":"AA"}`, "Ed448 public key"},
		{`{"kty":"OKP","crv":"X25519"}`, "use Ed25519 or Ed448"},
		{`{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","aud":7}`, "aud is neither"},
		{`{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","aud":[]}`, "aud is neither"},
		{`{"kty":"oct","alg":"RS256","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`, "does not fit"},
	} {
		_, err := New(Config{Keys: []json.RawMessage{json.RawMessage(c.key)}})
		if err == nil || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), "auth.keys[0]") {
			t.Errorf("%s: error %v, want %q", c.key, err, c.words)
		}
	}
}

// issuer serves a key set that can be changed.
type issuer struct {
	url    string
	set    atomic.Pointer[string]
	status atomic.Int32
	asked  atomic.Int32
}

func newIssuer(t *testing.T, keys ...*signer) *issuer {
	i := &issuer{}
	i.publish(t, keys...)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		if s := i.status.Load(); s != 0 {
			w.WriteHeader(int(s))
			return
		}
		fmt.Fprint(w, *i.set.Load())
	}))
	t.Cleanup(srv.Close)
	i.url = srv.URL
	return i
}

func (i *issuer) publish(t *testing.T, keys ...*signer) {
	list := []json.RawMessage{}
	for _, k := range keys {
		list = append(list, k.json(t))
	}
	b, err := json.Marshal(map[string]any{"keys": list})
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	i.set.Store(&text)
}

func TestRemoteKeySet(t *testing.T) {
	first, next, symmetric := newSigner(t, "ES256", "1"), newSigner(t, "EdDSA", "2"), newSigner(t, "HS256", "s")
	iss := newIssuer(t, first, symmetric)
	v := verifier(t, Config{JWKSURLs: []string{iss.url}, AllowPrivate: true})
	now := time.Now()
	v.now = func() time.Time { return now }
	for range 3 {
		if _, err := v.Verify(t.Context(), first.sign(t, "1", claims(nil))); err != nil {
			t.Fatal(err)
		}
	}
	if n := iss.asked.Load(); n != 1 {
		t.Errorf("asked %d times for three tokens", n)
	}
	if c := code(t, second(v.Verify(t.Context(), symmetric.sign(t, "s", claims(nil))))); c != protocol.CodeUnauthorized {
		t.Errorf("a symmetric key of a URL gives %q", c)
	}

	// A new key is found, once the pause between such fetches is over.
	iss.publish(t, first, next)
	token := next.sign(t, "2", claims(nil))
	if c := code(t, second(v.Verify(t.Context(), token))); c != protocol.CodeUnauthorized {
		t.Errorf("within the pause: %q", c)
	}
	now = now.Add(missPause)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("after the pause: %v", err)
	}

	// Unknown kids do not flood the issuer.
	before := iss.asked.Load()
	for i := range 50 {
		v.Verify(t.Context(), next.sign(t, fmt.Sprint("x", i), claims(nil)))
		now = now.Add(time.Second)
	}
	if n := iss.asked.Load() - before; n > 4 {
		t.Errorf("asked %d times in 50 s for unknown keys", n)
	}

	// A failing issuer: the keys known serve on, for an hour.
	iss.status.Store(500)
	now = now.Add(50 * time.Minute)
	if _, err := v.Verify(t.Context(), next.sign(t, "2", claims(map[string]any{"iat": now.Unix(), "exp": now.Unix() + 60}))); err != nil {
		t.Errorf("with known keys: %v", err)
	}
	v.remote[0].group.Wait()
	now = now.Add(time.Hour)
	if c := code(t, second(v.Verify(t.Context(), next.sign(t, "2", claims(map[string]any{"iat": now.Unix(), "exp": now.Unix() + 60}))))); c != protocol.CodeKeySource {
		t.Errorf("without keys: %q", c)
	}
}

func TestPrivateAddressesAreRefused(t *testing.T) {
	s := newSigner(t, "ES256", "1")
	iss := newIssuer(t, s)
	v := verifier(t, Config{JWKSURLs: []string{iss.url}})
	if c := code(t, second(v.Verify(t.Context(), s.sign(t, "1", claims(nil))))); c != protocol.CodePrivateKeySource {
		t.Errorf("code %q", c)
	}
	if n := iss.asked.Load(); n != 0 {
		t.Errorf("asked %d times", n)
	}
	for _, a := range []string{"10.0.0.1:443", "127.0.0.1:1", "[::1]:1", "169.254.169.254:80", "[fe80::1]:80", "[fd00::1]:80", "[::ffff:192.168.1.1]:80", "100.64.0.1:80", "0.0.0.0:80"} {
		if refusePrivate(a) == nil {
			t.Errorf("%s is allowed", a)
		}
	}
	if err := refusePrivate("93.184.216.34:443"); err != nil {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	s := newSigner(f, "HS256", "k")
	v, err := New(Config{Keys: []json.RawMessage{s.json(f)}, Audience: []string{"millrace"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.sign(f, "k", claims(nil)))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := v.Verify(context.Background(), token); err != nil && len(code(t, err)) == 0 {
			t.Error("an error without code")
		}
	})
}

func FuzzParseKey(f *testing.F) {
	for _, alg := range []string{"HS256", "RS256", "ES256", "EdDSA"} {
		f.Add([]byte(newSigner(f, alg, "k").json(f)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if k, err := parseKey(text, true); err == nil && (k.public == nil || len(k.algs) == 0) {
			t.Errorf("%s gives an unusable key", text)
		}
	})
}
