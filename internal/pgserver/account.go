package pgserver

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is the user that runs the server.
type account struct {
	name     string
	uid, gid int
	// drop: this process is root and must become that user.
	drop bool
}

// accountNames are the users a root process runs PostgreSQL as, best first.
var accountNames = []string{"postgres", "_postgres", "pgsql", "nobody"}

// currentAccount is who runs servers started by this process.
func currentAccount() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: "uid " + strconv.Itoa(uid), uid: uid, gid: os.Getegid()}, nil
	}
	return dropTo(accountNames, user.Lookup)
}

func dropTo(names []string, lookup func(string) (*user.User, error)) (account, error) {
	for _, name := range names {
		u, err := lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil || uid == 0 {
			continue
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			continue
		}
		return account{name: name, uid: uid, gid: gid, drop: true}, nil
	}
	return account{}, fmt.Errorf("PostgreSQL refuses to run as root, and this machine has none of the users %v to run it as: create one (`useradd --system postgres`) or start this program as another user", names)
}

// credential is nil where no change of user is needed.
func (a account) credential() *syscall.Credential {
	if !a.drop {
		return nil
	}
	return &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
}

// reach returns an error if the account cannot enter dir, naming the folder
// that is closed to it. Folders that do not exist yet are no hindrance.
func (a account) reach(dir string) error {
	if !a.drop {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	for ; ; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if err == nil && !a.mayEnter(fi) {
			return &UnreachableError{Dir: dir, User: a.name}
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

func (a account) mayEnter(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	switch mode := fi.Mode().Perm(); {
	case int(st.Uid) == a.uid:
		return mode&0o100 != 0
	case int(st.Gid) == a.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}

// UnreachableError means that a folder is closed to the user that must run
// the server.
type UnreachableError struct {
	Dir  string // the folder that is closed
	User string // who cannot enter it
}

// Error names the folder, the user and the cure.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("PostgreSQL refuses to run as root and would run as user %q, who cannot enter %s: use a folder that user can reach (for example under /var/lib or /tmp), open it with `chmod o+x %s`, or start this program as another user", e.User, e.Dir, e.Dir)
}

// Reachable returns an error, usually an *UnreachableError, if servers started
// by this process could not have their files in dir.
func Reachable(dir string) error {
	a, err := currentAccount()
	if err != nil {
		return err
	}
	return a.reach(dir)
}
