package auth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace/protocol"
)

// Tolerance is how far clocks may differ.
const Tolerance = 60 * time.Second

// maxTokenBytes bounds what is parsed.
const maxTokenBytes = 64 << 10

// Config says which tokens are accepted.
type Config struct {
	// Keys are JSON Web Keys as JSON texts; RSA, EC, OKP (Ed25519, Ed448) and oct.
	// The member aud, a text or a list, replaces Audience for tokens of that key.
	Keys []json.RawMessage
	// JWKSURLs are remote key sets; symmetric keys in them are ignored.
	JWKSURLs []string
	// AllowPrivate lets JWKSURLs point at private, loopback and link-local
	// addresses.
	AllowPrivate bool
	// Audience lists the accepted audiences; with none, no token is accepted.
	Audience []string
	// Supabase accepts the tokens of a project there.
	Supabase Supabase
	// Issuer must match if it is not empty.
	Issuer string
	// MaxLifetime bounds exp - iat; 0 means 24 hours.
	MaxLifetime time.Duration
	// Log is told when key sets cannot be fetched; nil for silence.
	Log *slog.Logger
}

// Supabase names whose tokens are accepted: signed with the keys of a project, or
// with its legacy secret. Their audience is "authenticated", and they may live for a
// week, whatever is configured for others.
type Supabase struct {
	Project string // "abcdefghijklmnopqrst", as in its address; "" for none
	Secret  string // the legacy JWT secret, as text; "" for none
}

// KeySet is where the project's keys are.
func (s Supabase) KeySet() string {
	return "https://" + s.Project + ".supabase.co/auth/v1/.well-known/jwks.json"
}

// supabaseLifetime is a week, as projects may set, and 20 minutes.
const supabaseLifetime = 7*24*time.Hour + 20*time.Minute

// Token is a verified token.
type Token struct {
	Subject string    // as text
	Expires time.Time // exp, without tolerance
	Claims  []byte    // the payload, a JSON object
}

// Error is a refused token.
type Error struct {
	Code        protocol.Code
	Description string
}

// Error gives "[code] description", the form clients parse.
func (e *Error) Error() string { return "[" + string(e.Code) + "] " + e.Description }

// Status is the HTTP status of every refusal.
func (e *Error) Status() int { return http.StatusUnauthorized }

func refuse(code protocol.Code, format string, args ...any) error {
	return &Error{Code: code, Description: fmt.Sprintf(format, args...)}
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	cfg    Config
	static []key
	remote []*remoteSet
	now    func() time.Time
}

// New reads the configured keys. It fetches nothing: remote sets are read when
// they are first needed.
func New(cfg Config) (*Verifier, error) {
	if cfg.MaxLifetime == 0 {
		cfg.MaxLifetime = 24 * time.Hour
	}
	v := &Verifier{cfg: cfg, now: time.Now}
	for i, text := range cfg.Keys {
		k, err := parseKey(text, true)
		if err != nil {
			return nil, fmt.Errorf("auth.keys[%d]: %w", i, err)
		}
		own, err := ownAudience(text)
		if err != nil {
			return nil, fmt.Errorf("auth.keys[%d]: %w", i, err)
		}
		if own != nil {
			k.terms = &terms{audience: own, from: fmt.Sprintf("auth.keys[%d].aud", i)}
		}
		v.static = append(v.static, k)
	}
	for i, u := range cfg.JWKSURLs {
		if err := v.addRemote(fmt.Sprintf("auth.jwks_uris[%d]", i), u, nil); err != nil {
			return nil, err
		}
	}
	theirs := &terms{audience: []string{"authenticated"}, lifetime: supabaseLifetime, from: "auth.supabase"}
	if cfg.Supabase.Secret != "" {
		// Without a kid, since their tokens may name any.
		v.static = append(v.static, key{algs: []string{"HS256"}, public: []byte(cfg.Supabase.Secret), terms: theirs})
	}
	if cfg.Supabase.Project != "" {
		if err := v.addRemote("auth.supabase.project", cfg.Supabase.KeySet(), theirs); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// addRemote adds the key set at a URL; name is what the configuration calls it.
func (v *Verifier) addRemote(name, url string, terms *terms) error {
	guard := refusePrivate
	if v.cfg.AllowPrivate {
		guard = nil
	}
	r, err := newRemoteSet(url, guard)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.terms = terms
	if v.cfg.Log != nil {
		r.report = func(err error) { reportKeySet(v.cfg.Log, name, err) }
	}
	v.remote = append(v.remote, r)
	return nil
}

func reportKeySet(log *slog.Logger, name string, err error) {
	if err == nil {
		log.Info("the key set can be fetched again", "key_set", name)
		return
	}
	log.Warn("fetching a key set; tokens signed with keys that are not known are refused", "key_set", name, "error", err)
}

// Close ends running fetches of key sets and waits for them.
func (v *Verifier) Close() {
	for _, r := range v.remote {
		r.close()
	}
}

type header struct {
	Alg  string   `json:"alg"`
	Kid  string   `json:"kid"`
	Crit []string `json:"crit"`
}

// Verify checks a token. Errors are *Error, but for ctx's.
func (v *Verifier) Verify(ctx context.Context, token string) (*Token, error) {
	if token == "" {
		return nil, refuse(protocol.CodeNoToken, "no token in the request")
	}
	if len(token) > maxTokenBytes {
		return nil, refuse(protocol.CodeUnauthorized, "the token is longer than %d bytes", maxTokenBytes)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, refuse(protocol.CodeUnauthorized, "the token is not a JWT: it has %d parts instead of 3", len(parts))
	}
	var h header
	raw, err := base64.RawURLEncoding.Strict().DecodeString(parts[0])
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return nil, refuse(protocol.CodeUnauthorized, "the token's header is not base64url-encoded JSON")
	}
	payload, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil, refuse(protocol.CodeUnauthorized, "the token's payload is not base64url-encoded")
	}
	signature, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil {
		return nil, refuse(protocol.CodeUnauthorized, "the token's signature is not base64url-encoded")
	}
	if len(h.Crit) > 0 {
		return nil, refuse(protocol.CodeUnauthorized, "the token's header has critical extensions (crit), which are not supported")
	}
	if !slices.Contains(algorithms, h.Alg) {
		return nil, refuse(protocol.CodeUnauthorized, "the token's algorithm %.20q is not accepted; use one of %s", h.Alg, strings.Join(algorithms, ", "))
	}
	k, err := v.checkSignature(ctx, h, token[:len(parts[0])+1+len(parts[1])], signature)
	if err != nil {
		return nil, err
	}
	return v.checkClaims(payload, k.terms)
}

var algorithms = []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"}

// checkSignature finds the key that signed the token.
func (v *Verifier) checkSignature(ctx context.Context, h header, signed string, signature []byte) (*key, error) {
	method := jwt.GetSigningMethod(h.Alg)
	keys := slices.Clone(v.static)
	var fetchErr error
	for _, r := range v.remote {
		remote, err := r.keys(ctx, v.now())
		if err != nil {
			fetchErr = err
		}
		keys = append(keys, remote...)
	}
	if k, err := signedBy(keys, h.Kid, method, signed, signature); k != nil || err != nil {
		return k, err
	}
	// The issuer may have a new key.
	for _, r := range v.remote {
		fresh, err := r.refetch(ctx, v.now())
		if err != nil {
			fetchErr = err
			continue
		}
		if k, err := signedBy(fresh, h.Kid, method, signed, signature); k != nil || err != nil {
			r.hit()
			return k, err
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(keys) == 0 && errors.Is(fetchErr, errPrivate):
		return nil, refuse(protocol.CodePrivateKeySource, "the server's key set is at a private address, which is not allowed (auth.jwks_allow_private)")
	case len(keys) == 0 && fetchErr != nil:
		return nil, refuse(protocol.CodeKeySource, "the server could not fetch the keys that verify tokens")
	case h.Kid != "":
		return nil, refuse(protocol.CodeUnauthorized, "no key with the token's kid %.100q is configured, and none without kid verifies %s", h.Kid, h.Alg)
	}
	return nil, refuse(protocol.CodeUnauthorized, "the token has no kid, and no key without kid for %s is configured", h.Alg)
}

// signedBy finds the key that signed the token. Keys with the token's kid are the
// only ones tried if there are any; else every key without kid that fits is. With
// no key to try it gives neither a key nor an error.
func signedBy(keys []key, kid string, method jwt.SigningMethod, signed string, signature []byte) (*key, error) {
	named := kid != "" && slices.ContainsFunc(keys, func(k key) bool { return k.kid == kid })
	var refused error
	for i := range keys {
		k := &keys[i]
		if named && k.kid != kid || !named && (k.kid != "" || !k.fits(method.Alg())) {
			continue
		}
		err := k.verify(method, signed, signature)
		if err == nil {
			return k, nil
		}
		refused = err
	}
	return nil, refused
}

// checkClaims applies the policy, with the key's own terms if it has some.
func (v *Verifier) checkClaims(payload []byte, own *terms) (*Token, error) {
	var c struct {
		Sub json.RawMessage `json:"sub"`
		Iss json.RawMessage `json:"iss"`
		Aud json.RawMessage `json:"aud"`
		Exp json.RawMessage `json:"exp"`
		Iat json.RawMessage `json:"iat"`
		Nbf json.RawMessage `json:"nbf"`

		Parameters json.RawMessage `json:"parameters"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, refuse(protocol.CodeUnauthorized, "the token's payload is not a JSON object")
	}
	accepted := terms{v.cfg.Audience, v.cfg.MaxLifetime, "auth.audience"}
	if own != nil {
		accepted = terms{own.audience, max(own.lifetime, v.cfg.MaxLifetime), own.from}
	}
	now := v.now()
	exp, err := timeClaim("exp", c.Exp, true)
	if err != nil {
		return nil, err
	}
	iat, err := timeClaim("iat", c.Iat, true)
	if err != nil {
		return nil, err
	}
	nbf, err := timeClaim("nbf", c.Nbf, false)
	if err != nil {
		return nil, err
	}
	sub, err := subject(c.Sub)
	if err != nil {
		return nil, err
	}
	switch {
	case now.After(exp.Add(Tolerance)):
		return nil, refuse(protocol.CodeTokenExpired, "the token expired at %s", exp.UTC().Format(time.RFC3339))
	case nbf.After(now.Add(Tolerance)):
		return nil, refuse(protocol.CodeUnauthorized, "the token is not valid before %s (nbf)", nbf.UTC().Format(time.RFC3339))
	case iat.After(now.Add(Tolerance)):
		return nil, refuse(protocol.CodeUnauthorized, "the token was issued in the future, at %s (iat)", iat.UTC().Format(time.RFC3339))
	case exp.Sub(iat) > accepted.lifetime:
		return nil, refuse(protocol.CodeTokenLifetime, "the token lives for %s (exp - iat), the limit is %s (auth.max_token_lifetime)", exp.Sub(iat), accepted.lifetime)
	}
	if v.cfg.Issuer != "" {
		var iss string
		if json.Unmarshal(c.Iss, &iss) != nil || iss != v.cfg.Issuer {
			return nil, refuse(protocol.CodeUnauthorized, "the token's issuer (iss) is not the configured one")
		}
	}
	if err := accepted.checkAudience(c.Aud); err != nil {
		return nil, err
	}
	if p := bytes.TrimSpace(c.Parameters); len(p) > 0 && p[0] != '{' {
		return nil, refuse(protocol.CodeUnauthorized, "the token's claim parameters is not an object")
	}
	return &Token{Subject: sub, Expires: exp, Claims: payload}, nil
}

// audiences reads a text or a list of texts.
func audiences(raw json.RawMessage) (list []string, err error) {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	return list, json.Unmarshal(raw, &list)
}

func (t *terms) checkAudience(raw json.RawMessage) error {
	if len(raw) == 0 {
		return refuse(protocol.CodeAudience, "the token has no audience (aud)")
	}
	list, err := audiences(raw)
	if err != nil {
		return refuse(protocol.CodeAudience, "the token's audience (aud) is neither a text nor a list of texts")
	}
	for _, a := range list {
		if slices.Contains(t.audience, a) {
			return nil
		}
	}
	return refuse(protocol.CodeAudience, "the token's audience (aud) %.200q is not accepted; this server accepts %q (%s)", list, t.audience, t.from)
}

func timeClaim(name string, raw json.RawMessage, required bool) (time.Time, error) {
	if len(raw) == 0 || string(raw) == "null" {
		if required {
			return time.Time{}, refuse(protocol.CodeUnauthorized, "the token's claim %s is missing", name)
		}
		return time.Time{}, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || f < 0 || f > 1<<40 {
		return time.Time{}, refuse(protocol.CodeUnauthorized, "the token's claim %s is not a time in seconds", name)
	}
	return time.UnixMilli(int64(f * 1000)), nil
}

// subject gives the text form of sub: it names the counter of write checkpoints.
func subject(raw json.RawMessage) (string, error) {
	var s string
	switch {
	case len(raw) == 0 || string(raw) == "null":
		return "", refuse(protocol.CodeUnauthorized, "the token's claim sub is missing")
	case raw[0] == '"':
		if err := json.Unmarshal(raw, &s); err != nil {
			return "", refuse(protocol.CodeUnauthorized, "the token's claim sub is not a valid text")
		}
	case string(raw) == "true":
		s = "1"
	case string(raw) == "false":
		s = "0"
	default:
		var b bytes.Buffer
		if err := json.Compact(&b, raw); err != nil {
			return "", refuse(protocol.CodeUnauthorized, "the token's claim sub is not valid JSON")
		}
		s = b.String()
	}
	switch {
	case s == "":
		return "", refuse(protocol.CodeUnauthorized, "the token's claim sub is empty")
	case len(s) > 1024:
		return "", refuse(protocol.CodeUnauthorized, "the token's claim sub is longer than 1024 bytes")
	case strings.ContainsRune(s, 0):
		return "", refuse(protocol.CodeUnauthorized, "the token's claim sub holds a zero character")
	}
	return s, nil
}
