package e2e

import "syscall"

// endWithParent keeps a process from outliving a test that was killed.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
