package devserver

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	keyFile       = "key"
	keyID         = "dev"
	audience      = "millrace"
	tokenLifetime = 24 * time.Hour
)

// demoUsers have ready tokens.
var demoUsers = []string{"alice", "bob"}

// Key is an HS256 key that signs tokens for development.
type Key struct {
	ID       string // kid
	Secret   []byte
	Audience string
	Issuer   string // empty for none
}

// LoadKey reads the key of a development folder, making one if there is none.
// The folder must be there.
func LoadKey(dir string) (Key, error) {
	path := filepath.Join(dir, keyFile)
	key := Key{ID: keyID, Audience: audience}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		secret := make([]byte, 32)
		rand.Read(secret) // never fails
		b = []byte(base64.RawURLEncoding.EncodeToString(secret) + "\n")
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return key, fmt.Errorf("read the signing key: %w", err)
	}
	if key.Secret, err = base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(b))); err != nil || len(key.Secret) < 32 {
		return key, fmt.Errorf("%s holds no signing key: delete it, and a new one is made", path)
	}
	return key, nil
}

// JWK is the key as a JSON Web Key. It is secret.
func (k Key) JWK() ([]byte, error) {
	return json.Marshal(map[string]string{
		"kty": "oct", "alg": "HS256", "use": "sig", "kid": k.ID,
		"k": base64.RawURLEncoding.EncodeToString(k.Secret),
	})
}

// Sign makes a token for a user. The standard claims win over those given.
func (k Key) Sign(sub string, claims map[string]any, lifetime time.Duration, now time.Time) (string, error) {
	all := jwt.MapClaims{}
	maps.Copy(all, claims)
	all["sub"] = sub
	all["aud"] = k.Audience
	all["iat"] = now.Unix()
	all["exp"] = now.Add(lifetime).Unix()
	if k.Issuer != "" {
		all["iss"] = k.Issuer
	}
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, all)
	if k.ID != "" {
		token.Header["kid"] = k.ID
	}
	signed, err := token.SignedString(k.Secret)
	if err != nil {
		return "", fmt.Errorf("sign a token for %q: %w", sub, err)
	}
	return signed, nil
}

// Verify checks a token that Sign made and gives its user.
func (k Key) Verify(token string) (sub string, err error) {
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
		jwt.WithAudience(k.Audience),
		jwt.WithExpirationRequired(),
	}
	if k.Issuer != "" {
		options = append(options, jwt.WithIssuer(k.Issuer))
	}
	parsed, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return k.Secret, nil }, options...)
	if err != nil {
		return "", fmt.Errorf("token refused: %w", err)
	}
	if sub, err = parsed.Claims.GetSubject(); err != nil {
		return "", fmt.Errorf("token refused: %w", err)
	} else if sub == "" {
		return "", errors.New("token refused: it names no user (claim sub)")
	}
	return sub, nil
}
