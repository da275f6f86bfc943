package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/cloudflare/circl/sign/ed448"
	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace/protocol"
)

// key is one verification key.
type key struct {
	kid string
	// algs are the algorithms it verifies: the one it names, or the family of
	// its type.
	algs   []string
	public any // what the signing method takes
	terms  *terms
}

// terms replace parts of the policy for the tokens of some keys.
type terms struct {
	audience []string      // nil: as configured for all
	lifetime time.Duration // at most, if it is longer than what is configured; 0: as configured
	from     string        // the configuration key, for messages
}

type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid"`
	Alg    string   `json:"alg"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	K      string   `json:"k"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	Crv    string   `json:"crv"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
	// Aud is our own: the audiences of tokens signed with the key.
	Aud json.RawMessage `json:"aud"`
}

// errNotForVerifying marks keys of a set that serve something else.
var errNotForVerifying = errors.New("the key is not for verifying signatures")

// parseKey reads a JWK. Errors never hold key material.
func parseKey(text []byte, symmetric bool) (key, error) {
	var j jwk
	if err := json.Unmarshal(text, &j); err != nil {
		return key{}, errors.New("not a JSON Web Key (a JSON object)")
	}
	if j.Use != "" && j.Use != "sig" || len(j.KeyOps) > 0 && !slices.Contains(j.KeyOps, "verify") && !slices.Contains(j.KeyOps, "sign") {
		return key{}, errNotForVerifying
	}
	k := key{kid: j.Kid}
	var err error
	switch j.Kty {
	case "oct":
		if !symmetric {
			return key{}, fmt.Errorf("%w: symmetric keys are taken from the configuration only", errNotForVerifying)
		}
		k.algs = []string{"HS256", "HS384", "HS512"}
		k.public, err = octKey(j)
	case "RSA":
		k.algs = []string{"RS256", "RS384", "RS512"}
		k.public, err = rsaKey(j)
	case "EC":
		k.algs, k.public, err = ecKey(j)
	case "OKP":
		k.algs = []string{"EdDSA"}
		k.public, err = edKey(j)
	case "":
		return key{}, errors.New("kty is missing")
	default:
		return key{}, fmt.Errorf("kty %.20q is not supported; use RSA, EC, OKP or oct", j.Kty)
	}
	if err != nil {
		return key{}, err
	}
	if j.Alg != "" {
		if !slices.Contains(k.algs, j.Alg) {
			return key{}, fmt.Errorf("alg %.20q does not fit a key of kty %s %s", j.Alg, j.Kty, j.Crv)
		}
		k.algs = []string{j.Alg}
	}
	return k, nil
}

func octKey(j jwk) (any, error) {
	b, err := base64.RawURLEncoding.DecodeString(j.K)
	if err != nil {
		return nil, errors.New("k is not base64url without padding")
	}
	if len(b) < 16 {
		return nil, fmt.Errorf("k has %d bytes; a shared secret needs at least 16, better 32", len(b))
	}
	return b, nil
}

func rsaKey(j jwk) (any, error) {
	n, err := number("n", j.N)
	if err != nil {
		return nil, err
	}
	e, err := number("e", j.E)
	if err != nil {
		return nil, err
	}
	if n.BitLen() < 2048 || n.BitLen() > 16384 {
		return nil, fmt.Errorf("an RSA key of %d bits; 2048 to 16384 are accepted", n.BitLen())
	}
	if !e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0 {
		return nil, errors.New("e is not a usable RSA exponent")
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
}

func ecKey(j jwk) ([]string, any, error) {
	var curve elliptic.Curve
	var alg string
	switch j.Crv {
	case "P-256":
		curve, alg = elliptic.P256(), "ES256"
	case "P-384":
		curve, alg = elliptic.P384(), "ES384"
	case "P-521":
		curve, alg = elliptic.P521(), "ES512"
	default:
		return nil, nil, fmt.Errorf("crv %.20q is not supported; use P-256, P-384 or P-521", j.Crv)
	}
	size := (curve.Params().BitSize + 7) / 8
	point := []byte{4}
	for _, c := range []struct{ name, text string }{{"x", j.X}, {"y", j.Y}} {
		b, err := base64.RawURLEncoding.DecodeString(c.text)
		if err != nil || len(b) > size {
			return nil, nil, fmt.Errorf("%s is not a base64url coordinate of %s", c.name, j.Crv)
		}
		point = append(append(point, make([]byte, size-len(b))...), b...)
	}
	k, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, nil, fmt.Errorf("x and y are no point of %s", j.Crv)
	}
	return []string{alg}, k, nil
}

func edKey(j jwk) (any, error) {
	size := map[string]int{"Ed25519": ed25519.PublicKeySize, "Ed448": ed448.PublicKeySize}[j.Crv]
	if size == 0 {
		return nil, fmt.Errorf("crv %.20q is not supported; use Ed25519 or Ed448", j.Crv)
	}
	b, err := base64.RawURLEncoding.DecodeString(j.X)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("x is not a base64url %s public key", j.Crv)
	}
	if size == ed448.PublicKeySize {
		return ed448.PublicKey(b), nil
	}
	return ed25519.PublicKey(b), nil
}

func number(name, text string) (*big.Int, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) == 0 || len(b) > 4096 {
		return nil, fmt.Errorf("%s is not a base64url number", name)
	}
	return new(big.Int).SetBytes(b), nil
}

func (k *key) fits(alg string) bool { return slices.Contains(k.algs, alg) }

// verify checks a signature with this very key.
func (k *key) verify(method jwt.SigningMethod, signed string, signature []byte) error {
	if !k.fits(method.Alg()) {
		return refuse(protocol.CodeUnauthorized, "the token is signed with %s, the key with its kid is for %v", method.Alg(), k.algs)
	}
	if !k.signed(method, signed, signature) {
		return refuse(protocol.CodeSignature, "the token's signature (%s) does not verify: it was signed with another key or was changed", method.Alg())
	}
	return nil
}

func (k *key) signed(method jwt.SigningMethod, text string, signature []byte) bool {
	if public, is448 := k.public.(ed448.PublicKey); is448 { // which jwt does not know
		return ed448.Verify(public, []byte(text), signature, "")
	}
	return method.Verify(text, signature, k.public) == nil
}

// ownAudience reads the audience that a key of the configuration brings: a text
// or a list of texts.
func ownAudience(text []byte) ([]string, error) {
	var j jwk
	if err := json.Unmarshal(text, &j); err != nil || len(j.Aud) == 0 {
		return nil, err
	}
	list, err := audiences(j.Aud)
	if err != nil || len(list) == 0 || slices.Contains(list, "") {
		return nil, errors.New("aud is neither a text nor a list of texts")
	}
	return list, nil
}
