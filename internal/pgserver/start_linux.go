package pgserver

import (
	"os/exec"
	"runtime"
	"syscall"
)

// start starts cmd and waits for it in a goroutine that ends with the process.
// waitErr may be read once exited is closed.
//
// The kernel's "parent died" signal is bound to the thread that started the
// process, so with endWithParent that thread is kept for it.
func start(cmd *exec.Cmd, endWithParent bool) (exited chan struct{}, waitErr *error, err error) {
	exited, waitErr = make(chan struct{}), new(error)
	started := make(chan error)
	go func() {
		if endWithParent {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
		}
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		*waitErr = cmd.Wait()
		close(exited)
	}()
	return exited, waitErr, <-started
}
