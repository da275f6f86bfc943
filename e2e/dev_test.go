package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/internal/pgserver"
	"github.com/millrace/millrace/internal/pgtest"
)

// devServers is `millrace dev` with its data in a folder that outlives it:
// start again after a kill, and it finds its PostgreSQL servers.
type devServers struct {
	t            testing.TB
	dir, address string
	dev          devserver.DevFile
	process      *process
}

// startDevServers runs `millrace dev` at an address. What it leaves running is
// stopped when the test ends.
func startDevServers(t testing.TB, address string) *devServers {
	t.Helper()
	d := &devServers{t: t, dir: filepath.Join(openDir(t), "d"), address: address}
	t.Cleanup(func() {
		for _, name := range []string{"source", "sidecar"} {
			if err := pgserver.StopIn(context.Background(), filepath.Join(d.dir, name)); err != nil {
				t.Error(err)
			}
		}
	})
	d.start()
	return d
}

// start starts the program and waits until it serves.
func (d *devServers) start() {
	d.t.Helper()
	d.process = start(d.t, "dev", "dev", "--data", d.dir, "--listen", d.address)
	pgtest.Eventually(d.t, 2*startTimeout, func() (err error) {
		if !d.process.running() {
			d.t.Fatalf("millrace dev ended with %v:\n%s", d.process.cmd.ProcessState, d.process.log.tail(20))
		}
		d.dev, err = devserver.ReadDevFile(d.dir)
		if err == nil && d.dev.PID != d.process.cmd.Process.Pid {
			err = fmt.Errorf("dev.json is of process %d", d.dev.PID)
		}
		return err
	})
}
