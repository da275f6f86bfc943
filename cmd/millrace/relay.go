package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"syscall"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/auth"
	"github.com/millrace/millrace/store"
)

// sidecarSource is the store's reader in the relay's terms.
type sidecarSource struct{ *store.Reader }

func (s sidecarSource) Snapshot(ctx context.Context) (relay.Snapshot, error) {
	return relay.Open(s.Reader.Snapshot)(ctx)
}

// newRelay prepares the part that clients connect to; address is where they do.
// The returned function closes what it uses, once it does not run any more.
func newRelay(ctx context.Context, cfg *config.Config, address string, tracer millrace.Tracer, log *slog.Logger) (*relay.Relay, func(), error) {
	keys := make([]json.RawMessage, len(cfg.Auth.Keys))
	for i, k := range cfg.Auth.Keys {
		keys[i] = json.RawMessage(k)
	}
	verifier, err := auth.New(auth.Config{
		Keys:         keys,
		JWKSURLs:     cfg.Auth.JWKSURIs,
		AllowPrivate: cfg.Auth.JWKSAllowPrivate,
		Supabase:     auth.Supabase{Project: cfg.Auth.Supabase.Project, Secret: string(cfg.Auth.Supabase.JWTSecret)},
		Audience:     cfg.Auth.Audience,
		Issuer:       cfg.Auth.Issuer,
		MaxLifetime:  cfg.Auth.MaxTokenLifetime,
		Log:          log,
	})
	if err != nil {
		return nil, nil, usage(err)
	}
	if len(keys)+len(cfg.Auth.JWKSURIs) == 0 && cfg.Auth.Supabase == (config.Supabase{}) {
		log.Warn("no client can connect: auth.keys, auth.jwks_uris and auth.supabase name no key that verifies tokens")
	}
	reader, err := store.OpenReader(ctx, string(cfg.Sidecar.URI), store.ReaderOptions{ReadURI: string(cfg.Sidecar.ReadURI), Logger: log})
	if err != nil {
		verifier.Close()
		return nil, nil, usage(err)
	}
	var proxies []netip.Prefix
	for _, p := range cfg.Relay.TrustedProxies {
		proxies = append(proxies, netip.MustParsePrefix(p)) // the configuration was validated
	}
	r, err := relay.New(relay.Config{
		Tracer: tracer,
		Name:   processName(),
		Listen: address,
		Limits: relay.Limits{
			Connections:    int(cfg.Relay.MaxConnections),
			PerUser:        int(cfg.Relay.MaxConnectionsPerUser),
			PerAddress:     int(cfg.Relay.ConnectsPerAddress),
			BucketsPerUser: int(cfg.Relay.MaxBucketsPerUser),
			Followed:       int(cfg.Relay.MaxFollowed),
			RequestBytes:   int64(cfg.Relay.MaxRequestBytes),
			NodeBytes:      int(cfg.Relay.NodeMax),
		},
		Verifier: verifier,
		Proxies:  proxies,
		Log:      log,
	}, sidecarSource{reader})
	if err != nil {
		verifier.Close()
		reader.Close()
		return nil, nil, err
	}
	checkDescriptors(cfg.Relay.MaxConnections, log)
	return r, func() {
		verifier.Close()
		reader.Close()
	}, nil
}

// checkDescriptors warns of a limit that would refuse clients before ours does.
func checkDescriptors(connections int64, log *slog.Logger) {
	const others = 100 // databases, logs, spool files
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return
	}
	if int64(limit.Cur) < connections+others {
		log.Warn(fmt.Sprintf("this process may open %d files, too few for %d connections (relay.max_connections): raise the limit (ulimit -n)", limit.Cur, connections))
	}
}
