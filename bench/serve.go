package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/millrace/millrace/devserver"
)

// server is the binary, serving clients beside the decoder.
type server struct {
	cmd  *exec.Cmd
	url  string
	key  devserver.Key
	stop func() error
}

// serve starts the binary with both roles and waits until it serves.
func (b *bed) serve(ctx context.Context) (*server, error) { return b.serveAs(ctx, "all") }

// serveAs starts the binary with a role that serves clients.
func (b *bed) serveAs(ctx context.Context, role string) (*server, error) {
	key, err := devserver.LoadKey(b.dir)
	if err != nil {
		return nil, err
	}
	jwk, err := key.JWK()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	config, err := os.ReadFile(b.config)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, "serve.yaml")
	config = fmt.Appendf(config, "auth:\n  keys: [%s]\nrelay:\n  listen: %s\n  max_connections_per_user: 1000000\n", jwk, address)
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	logPath := filepath.Join(b.dir, "serve.log")
	log, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	s := &server{url: "http://" + address, key: key}
	s.cmd = exec.CommandContext(ctx, b.binary, "serve", "-c", file, "--role", role)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	s.stop = func() error {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // Wait tells if it had ended before
		if err := errors.Join(s.cmd.Wait(), log.Close()); err != nil {
			text, _ := os.ReadFile(logPath)
			return fmt.Errorf("millrace serve: %w; its log ends:\n%s", err, text[max(0, len(text)-2000):])
		}
		return nil
	}
	// The first copy may come before.
	if err := poll(ctx, time.Hour, func() (bool, error) { return s.ready(ctx), nil }); err != nil {
		return nil, errors.Join(fmt.Errorf("millrace serve is not ready: %w", err), s.stop())
	}
	return s, nil
}

func (s *server) ready(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/probes/readiness", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
