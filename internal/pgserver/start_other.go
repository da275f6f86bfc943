//go:build !linux

package pgserver

import "os/exec"

// start starts cmd and waits for it in a goroutine that ends with the process.
// waitErr may be read once exited is closed. endWithParent has no effect here.
func start(cmd *exec.Cmd, _ bool) (exited chan struct{}, waitErr *error, err error) {
	exited, waitErr = make(chan struct{}), new(error)
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	go func() {
		*waitErr = cmd.Wait()
		close(exited)
	}()
	return exited, waitErr, nil
}
