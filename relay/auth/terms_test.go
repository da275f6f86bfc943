package auth

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace/protocol"
)

// ed448Method signs as EdDSA with Ed448, which jwt does not know.
type ed448Method struct{ jwt.SigningMethodEd25519 }

func (*ed448Method) Sign(text string, key any) ([]byte, error) {
	return ed448.Sign(key.(ed448.PrivateKey), []byte(text), ""), nil
}

func TestEd448(t *testing.T) {
	public, private, err := ed448.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{method: &ed448Method{}, key: private, jwk: map[string]any{"kty": "OKP", "crv": "Ed448", "kid": "k", "x": b64.EncodeToString(public)}}
	v := verifier(t, Config{Keys: []json.RawMessage{s.json(t), newSigner(t, "EdDSA", "25519").json(t)}})
	token := s.sign(t, "k", claims(nil))
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
	if c := code(t, second(v.Verify(t.Context(), s.sign(t, "25519", claims(nil))))); c != protocol.CodeSignature {
		t.Errorf("with the kid of an Ed25519 key: %q", c)
	}
	parts := strings.Split(token, ".")
	parts[1] = b64.EncodeToString([]byte(`{"sub":"mallory"}`))
	if c := code(t, second(v.Verify(t.Context(), strings.Join(parts, ".")))); c != protocol.CodeSignature {
		t.Errorf("a changed payload gives %q", c)
	}
}

// TestEd448Vector is the first vector of RFC 8032, section 7.4: the empty message.
func TestEd448Vector(t *testing.T) {
	public, err := hex.DecodeString("5fd7449b59b461fd2ce787ec616ad46a1da1342485a70e1f8a0ea75d80e96778edf124769b46c7061bd6783df1e50f6cd1fa1abeafe8256180")
	if err != nil {
		t.Fatal(err)
	}
	signature, err := hex.DecodeString("533a37f6bbe457251f023c0d88f976ae2dfb504a843e34d2074fd823d41a591f2b233f034f628281f2fd7a22ddd47d7828c59bd0a21bfd3980ff0d2028d4b18a9df63e006c5d1c2d345b925d8dc00b4104852db99ac5c7cdda8530a113a0f4dbb61149f05a7363268c71d95808ff2e652600")
	if err != nil {
		t.Fatal(err)
	}
	k, err := parseKey([]byte(`{"kty":"OKP","crv":"Ed448","x":"`+b64.EncodeToString(public)+`"}`), false)
	if err != nil {
		t.Fatal(err)
	}
	if !k.signed(jwt.SigningMethodEdDSA, "", signature) || k.signed(jwt.SigningMethodEdDSA, "x", signature) {
		t.Error("the vector does not verify")
	}
}

// TestAudienceOfAKey: it replaces the configured one, for that key alone.
func TestAudienceOfAKey(t *testing.T) {
	own, plain := newSigner(t, "HS256", "own"), newSigner(t, "HS256", "plain")
	own.jwk["aud"] = []string{"partner", "other-partner"}
	v := verifier(t, Config{Keys: []json.RawMessage{own.json(t), plain.json(t)}, Audience: []string{"millrace"}})
	for _, c := range []struct {
		s    *signer
		aud  any
		want protocol.Code
	}{
		{own, "other-partner", ""}, {own, []string{"x", "partner"}, ""}, {own, "millrace", protocol.CodeAudience},
		{plain, "millrace", ""}, {plain, "partner", protocol.CodeAudience},
	} {
		_, err := v.Verify(t.Context(), c.s.sign(t, c.s.jwk["kid"].(string), claims(map[string]any{"aud": c.aud})))
		if got := code(t, err); got != c.want {
			t.Errorf("key %s, audience %v: %q, want %q", c.s.jwk["kid"], c.aud, got, c.want)
		}
		if err != nil && c.s == own && !strings.Contains(err.Error(), "auth.keys[0].aud") {
			t.Errorf("the error does not say where: %v", err)
		}
	}
	own.jwk["aud"] = "single"
	v = verifier(t, Config{Keys: []json.RawMessage{own.json(t)}, Audience: []string{"millrace"}})
	if _, err := v.Verify(t.Context(), own.sign(t, "own", claims(map[string]any{"aud": "single"}))); err != nil {
		t.Error(err)
	}
}

// TestSupabase: tokens of a project, signed by its legacy secret or by its key set.
func TestSupabase(t *testing.T) {
	secret := &signer{method: jwt.SigningMethodHS256, key: []byte("super-secret-jwt-token-with-at-least-32-characters")}
	modern := newSigner(t, "ES256", "project-key")
	issuer := newIssuer(t, modern)
	ours := newSigner(t, "HS256", "ours")
	v := verifier(t, Config{
		Keys: []json.RawMessage{ours.json(t)}, Audience: []string{"millrace"}, AllowPrivate: true,
		Supabase: Supabase{Secret: string(secret.key.([]byte))},
	})
	// The set's address is the project's; here the test's issuer stands for it.
	if err := v.addRemote("auth.supabase.project", issuer.url, v.static[len(v.static)-1].terms); err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	week := map[string]any{"aud": "authenticated", "exp": now + 7*24*3600}
	for _, c := range []struct {
		name   string
		s      *signer
		kid    string
		change map[string]any
		want   protocol.Code
	}{
		{"legacy", secret, "", map[string]any{"aud": "authenticated"}, ""},
		{"legacy with some kid, a week", secret, "whatever", week, ""},
		{"key set, a week", modern, "project-key", week, ""},
		{"key set, longer", modern, "project-key", map[string]any{"aud": "authenticated", "exp": now + 8*24*3600}, protocol.CodeTokenLifetime},
		{"our audience", secret, "", map[string]any{"aud": "millrace"}, protocol.CodeAudience},
		{"our key, their audience", ours, "ours", map[string]any{"aud": "authenticated"}, protocol.CodeAudience},
		{"our key, a week", ours, "ours", map[string]any{"exp": now + 7*24*3600}, protocol.CodeTokenLifetime},
		{"our key", ours, "ours", nil, ""},
	} {
		_, err := v.Verify(t.Context(), c.s.sign(t, c.kid, claims(c.change)))
		if got := code(t, err); got != c.want {
			t.Errorf("%s: %q, want %q: %v", c.name, got, c.want, err)
		}
	}
	if got, want := (Supabase{Project: "abc"}).KeySet(), "https://abc.supabase.co/auth/v1/.well-known/jwks.json"; got != want {
		t.Errorf("key set %q", got)
	}
}
