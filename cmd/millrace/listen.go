package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// listen opens the HTTP server's address. The error for one that is taken says
// by whom, where that can be known, and what to do.
func listen(ctx context.Context, address, flag string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		holder := ""
		if _, port, err := net.SplitHostPort(address); err == nil {
			holder = portHolder(port)
		}
		return nil, &coded{exitUnreachable, fmt.Errorf("the address %s is in use%s: stop that program, or choose another address with %s", address, holder, flag)}
	case errors.Is(err, syscall.EACCES):
		return nil, &coded{exitUnreachable, fmt.Errorf("the address %s is not allowed for this user: choose a port from 1024 with %s", address, flag)}
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, &coded{exitUnreachable, fmt.Errorf("this machine has no address %s: choose another with %s, for example 127.0.0.1:8080", address, flag)}
	default:
		return nil, usage(fmt.Errorf("listen on %q: %w: choose another address with %s, for example 127.0.0.1:8080", address, err, flag))
	}
}

// portHolder is " by NAME (pid N)" for the process that listens on a TCP port,
// empty if that cannot be known. Only Linux tells.
func portHolder(port string) string {
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return ""
	}
	sockets := listeningSockets(fmt.Sprintf(":%04X", n))
	if len(sockets) == 0 {
		return ""
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && sockets[target] {
			pid := strings.Split(link, "/")[2]
			name, err := os.ReadFile("/proc/" + pid + "/comm")
			if err != nil {
				return " by process " + pid
			}
			return fmt.Sprintf(" by %s (pid %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

// listeningSockets are the sockets ("socket:[inode]") that listen on a port,
// given as ":HEX".
func listeningSockets(port string) map[string]bool {
	const listening = "0A"
	sockets := make(map[string]bool)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 9 && strings.HasSuffix(f[1], port) && f[3] == listening {
				sockets["socket:["+f[9]+"]"] = true
			}
		}
	}
	return sockets
}
