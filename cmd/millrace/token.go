package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/devserver"
)

func newToken(env *environment) *cobra.Command {
	var (
		sub, file, data string
		claims          []string
		ttl             string
	)
	cmd := &cobra.Command{
		Use:   "token --sub USER",
		Short: "Sign a token for development",
		Long: `Sign a token (HS256) with the key of the development servers, or with the
first "oct" key of a configuration file. Production tokens come from your app.`,
		Example: "  millrace token --sub alice\n  millrace token --sub bob --claim role=admin --claim 'teams=[1,2]' --ttl 10m",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if sub == "" {
				return usage(errors.New("--sub is needed: the user the token is for"))
			}
			lifetime, err := config.ParseDuration(ttl)
			if err != nil || lifetime <= 0 {
				return usage(fmt.Errorf("--ttl: %q is no time span such as 10m or 1h", ttl))
			}
			extra, err := parseClaims(claims)
			if err != nil {
				return usage(err)
			}
			key, err := signingKey(file, data)
			if err != nil {
				return err
			}
			token, err := key.Sign(sub, extra, lifetime, time.Now())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(env.stdout, token)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&sub, "sub", "", "the user (claim sub)")
	f.StringArrayVar(&claims, "claim", nil, "another claim, as name=value; a value that is JSON is taken as such (repeatable)")
	f.StringVar(&ttl, "ttl", "1h", "how long the token is valid")
	f.StringVarP(&file, "config", "c", "", "a millrace.yaml with an \"oct\" key (default: the development key)")
	f.StringVar(&data, "data", ".millrace", "folder of the development servers")
	return cmd
}

// parseClaims reads name=value; a value that is JSON is taken as JSON.
func parseClaims(list []string) (map[string]any, error) {
	claims := make(map[string]any, len(list))
	for _, c := range list {
		name, text, ok := strings.Cut(c, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--claim %q is not name=value", c)
		}
		switch name {
		case "sub", "aud", "iat", "exp", "iss":
			return nil, fmt.Errorf("--claim %s: this claim is set by other flags or the configuration", name)
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil || d.More() {
			v = text
		}
		claims[name] = v
	}
	return claims, nil
}

// signingKey is the first oct key of a configuration, or the development key.
func signingKey(file, data string) (devserver.Key, error) {
	if file == "" {
		if _, err := os.Stat(data); err != nil {
			return devserver.Key{}, usage(fmt.Errorf("there are no development servers in %s: run `millrace dev` first, name their folder with --data, or a configuration with -c", data))
		}
		return devserver.LoadKey(data)
	}
	cfg, err := loadConfig(file)
	if err != nil {
		return devserver.Key{}, err
	}
	for _, raw := range cfg.Auth.Keys {
		var jwk struct{ Kty, Alg, Kid, K string }
		if err := json.Unmarshal(raw, &jwk); err != nil || jwk.Kty != "oct" || (jwk.Alg != "" && jwk.Alg != "HS256") {
			continue
		}
		secret, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(jwk.K, "="))
		if err != nil {
			return devserver.Key{}, usage(fmt.Errorf("%s: auth.keys: the k of key %q is not base64url", file, jwk.Kid))
		}
		return devserver.Key{ID: jwk.Kid, Secret: secret, Audience: cfg.Auth.Audience[0], Issuer: cfg.Auth.Issuer}, nil
	}
	return devserver.Key{}, usage(fmt.Errorf("%s has no key of type oct (HS256) under auth.keys: only such a key can sign here", file))
}
