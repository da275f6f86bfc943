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
	// Keys are JSON Web Keys as JSON texts; RSA, EC, OKP (Ed25519) and oct.
	Keys []json.RawMessage
	// JWKSURLs are remote key sets; symmetric keys in them are ignored.
	JWKSURLs []string
	// AllowPrivate lets JWKSURLs point at private, loopback and link-local
	// addresses.
	AllowPrivate bool
	// Audience lists the accepted audiences; with none, no token is accepted.
	Audience []string
	// Issuer must match if it is not empty.
	Issuer string
	// MaxLifetime bounds exp - iat; 0 means 24 hours.
	MaxLifetime time.Duration
	// Log is told when key sets cannot be fetched; nil for silence.
	Log *slog.Logger
}

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
		v.static = append(v.static, k)
	}
	for i, u := range cfg.JWKSURLs {
		guard := refusePrivate
		if cfg.AllowPrivate {
			guard = nil
		}
		r, err := newRemoteSet(u, guard)
		if err != nil {
			return nil, fmt.Errorf("auth.jwks_uris[%d]: %w", i, err)
		}
		if cfg.Log != nil {
			r.report = func(err error) { reportKeySet(cfg.Log, i, err) }
		}
		v.remote = append(v.remote, r)
	}
	return v, nil
}

func reportKeySet(log *slog.Logger, i int, err error) {
	name := fmt.Sprintf("auth.jwks_uris[%d]", i)
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
	if err := v.checkSignature(ctx, h, token[:len(parts[0])+1+len(parts[1])], signature); err != nil {
		return nil, err
	}
	return v.checkClaims(payload)
}

var algorithms = []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"}

// checkSignature finds the key. The key named by the token's kid is the only one
// tried if there is one; else every key without kid is.
func (v *Verifier) checkSignature(ctx context.Context, h header, signed string, signature []byte) error {
	method := jwt.GetSigningMethod(h.Alg)
	try := func(keys []key) (found bool, err error) {
		named := false
		if h.Kid != "" {
			for i := range keys {
				if keys[i].kid == h.Kid {
					named = true
					err = keys[i].verify(method, signed, signature)
					if err == nil {
						return true, nil
					}
				}
			}
		}
		if named {
			return true, err
		}
		for i := range keys {
			if k := &keys[i]; k.kid == "" && k.fits(method.Alg()) {
				found = true
				if err = k.verify(method, signed, signature); err == nil {
					return true, nil
				}
			}
		}
		return found, err
	}
	keys := slices.Clone(v.static)
	var fetchErr error
	for _, r := range v.remote {
		remote, err := r.keys(ctx, v.now())
		if err != nil {
			fetchErr = err
		}
		keys = append(keys, remote...)
	}
	found, err := try(keys)
	if found {
		return err
	}
	// The issuer may have a new key.
	for _, r := range v.remote {
		fresh, err := r.refetch(ctx, v.now())
		if err != nil {
			fetchErr = err
			continue
		}
		if found, err := try(fresh); found {
			r.hit()
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(keys) == 0 && errors.Is(fetchErr, errPrivate) {
		return refuse(protocol.CodePrivateKeySource, "the server's key set is at a private address, which is not allowed (auth.jwks_allow_private)")
	}
	if fetchErr != nil && len(keys) == 0 {
		return refuse(protocol.CodeKeySource, "the server could not fetch the keys that verify tokens")
	}
	if h.Kid != "" {
		return refuse(protocol.CodeUnauthorized, "no key with the token's kid %.100q is configured, and none without kid verifies %s", h.Kid, h.Alg)
	}
	return refuse(protocol.CodeUnauthorized, "the token has no kid, and no key without kid for %s is configured", h.Alg)
}

// checkClaims applies the policy.
func (v *Verifier) checkClaims(payload []byte) (*Token, error) {
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
	case exp.Sub(iat) > v.cfg.MaxLifetime:
		return nil, refuse(protocol.CodeTokenLifetime, "the token lives for %s (exp - iat), the limit is %s (auth.max_token_lifetime)", exp.Sub(iat), v.cfg.MaxLifetime)
	}
	if v.cfg.Issuer != "" {
		var iss string
		if json.Unmarshal(c.Iss, &iss) != nil || iss != v.cfg.Issuer {
			return nil, refuse(protocol.CodeUnauthorized, "the token's issuer (iss) is not the configured one")
		}
	}
	if err := v.checkAudience(c.Aud); err != nil {
		return nil, err
	}
	if p := bytes.TrimSpace(c.Parameters); len(p) > 0 && p[0] != '{' {
		return nil, refuse(protocol.CodeUnauthorized, "the token's claim parameters is not an object")
	}
	return &Token{Subject: sub, Expires: exp, Claims: payload}, nil
}

func (v *Verifier) checkAudience(raw json.RawMessage) error {
	var list []string
	var one string
	switch {
	case len(raw) == 0:
		return refuse(protocol.CodeAudience, "the token has no audience (aud)")
	case json.Unmarshal(raw, &one) == nil:
		list = []string{one}
	case json.Unmarshal(raw, &list) != nil:
		return refuse(protocol.CodeAudience, "the token's audience (aud) is neither a text nor a list of texts")
	}
	for _, a := range list {
		if slices.Contains(v.cfg.Audience, a) {
			return nil
		}
	}
	return refuse(protocol.CodeAudience, "the token's audience (aud) %.200q is not accepted; this server accepts %q (auth.audience)", list, v.cfg.Audience)
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
