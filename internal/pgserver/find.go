// Package pgserver runs private PostgreSQL servers from binaries already on
// the machine: it finds them, makes a cluster, starts it on a loopback port,
// adopts one that was left running, and stops or kills it. PostgreSQL refuses
// to run as root, so a root process runs it as another user.
//
// It is for `millrace dev` and for tests; production servers are never started
// or stopped by Millrace. It knows nothing of the other packages.
package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// MinMajor is the oldest PostgreSQL that Millrace supports.
const MinMajor = 14

// EnvBin names the environment variable that says where the server binaries
// are.
const EnvBin = "MILLRACE_PG_BIN"

// ErrNotFound means that no usable server binaries are on the machine.
var ErrNotFound = errors.New("no PostgreSQL server binaries found")

// Binaries is a folder with a PostgreSQL server's programs.
type Binaries struct {
	Dir     string // absolute; holds at least postgres and initdb
	Version string // for example "15.14"
	Major   int    // for example 15
}

// Psql is the path of psql beside the server or on PATH, empty if there is
// none.
func (b Binaries) Psql() string {
	if p := filepath.Join(b.Dir, "psql"); executable(p) {
		return p
	}
	if p, err := exec.LookPath("psql"); err == nil {
		return p
	}
	return ""
}

// Finder says where to look for binaries. The zero value looks nowhere.
type Finder struct {
	// Explicit is a folder a person named; it must hold the binaries.
	Explicit string
	// Env is the value of MILLRACE_PG_BIN; like Explicit, after it.
	Env string
	// Path is a PATH-like list.
	Path string
	// Patterns are globs of the folders distributions use.
	Patterns []string
}

// DefaultFinder looks in explicit (if not empty), the environment, PATH, and
// the folders of the usual distributions.
func DefaultFinder(explicit string) Finder {
	return Finder{
		Explicit: explicit,
		Env:      os.Getenv(EnvBin),
		Path:     os.Getenv("PATH"),
		Patterns: []string{
			"/usr/lib/postgresql/*/bin",                       // Debian, Ubuntu
			"/usr/pgsql-*/bin",                                // PGDG on Red Hat
			"/usr/lib/postgresql*/bin",                        // SUSE
			"/usr/libexec/postgresql*",                        // Alpine
			"/opt/homebrew/opt/postgresql@*/bin",              // Homebrew, Apple silicon
			"/usr/local/opt/postgresql@*/bin",                 // Homebrew, Intel
			"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin", // Homebrew, Linux
			"/opt/local/lib/postgresql*/bin",                  // MacPorts
			"/Applications/Postgres.app/Contents/Versions/*/bin",
			"/usr/local/pgsql/bin", // built from source
			"/usr/bin",
		},
	}
}

// Find is DefaultFinder(explicit).Find.
func Find(ctx context.Context, explicit string) (Binaries, error) {
	return DefaultFinder(explicit).Find(ctx)
}

// Find returns the binaries of the first place that has any; among a
// distribution's folders the newest version. A named folder without usable
// binaries is an error that says so; if nothing is found anywhere the error is
// ErrNotFound.
func (f Finder) Find(ctx context.Context) (Binaries, error) {
	for _, named := range []struct{ dir, by string }{{f.Explicit, "the folder given"}, {f.Env, EnvBin}} {
		if named.dir == "" {
			continue
		}
		b, err := Inspect(ctx, named.dir)
		if err != nil {
			return Binaries{}, fmt.Errorf("%s: %w; name a folder that holds postgres and initdb, such as /usr/lib/postgresql/15/bin", named.by, err)
		}
		return b, nil
	}
	var tooOld error
	for _, dir := range filepath.SplitList(f.Path) {
		if dir == "" || !filepath.IsAbs(dir) {
			continue
		}
		if b, err := Inspect(ctx, dir); err == nil {
			return b, nil
		} else if !errors.Is(err, os.ErrNotExist) {
			tooOld = err
		}
	}
	var best Binaries
	for _, pattern := range f.Patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			return Binaries{}, fmt.Errorf("look for PostgreSQL in %q: %w", pattern, err)
		}
		for _, dir := range dirs {
			if b, err := Inspect(ctx, dir); err == nil {
				if b.Major > best.Major {
					best = b
				}
			} else if !errors.Is(err, os.ErrNotExist) {
				tooOld = err
			}
		}
	}
	if best.Dir != "" {
		return best, nil
	}
	if tooOld != nil {
		return Binaries{}, fmt.Errorf("%w: %w", ErrNotFound, tooOld)
	}
	return Binaries{}, ErrNotFound
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\)\s+((\d+)[^\s]*)`)

// Inspect tells which server's binaries dir holds. The error wraps
// os.ErrNotExist if there are none.
func Inspect(ctx context.Context, dir string) (Binaries, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Binaries{}, fmt.Errorf("folder %q: %w", dir, err)
	}
	for _, program := range []string{"postgres", "initdb"} {
		if !executable(filepath.Join(dir, program)) {
			return Binaries{}, fmt.Errorf("%s has no program %q: %w", dir, program, os.ErrNotExist)
		}
	}
	// A link such as /usr/local/bin/postgres finds its libraries by its real
	// place.
	if real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
		if executable(filepath.Join(filepath.Dir(real), "initdb")) {
			dir = filepath.Dir(real)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("ask %s/postgres for its version: %w", dir, err)
	}
	m := versionPattern.FindStringSubmatch(string(out))
	if m == nil {
		return Binaries{}, fmt.Errorf("%s/postgres --version says %q, which is no PostgreSQL version", dir, strings.TrimSpace(string(out)))
	}
	major, err := strconv.Atoi(m[2])
	if err != nil {
		return Binaries{}, fmt.Errorf("%s/postgres --version: %w", dir, err)
	}
	if major < MinMajor {
		return Binaries{}, fmt.Errorf("%s holds PostgreSQL %s; version %d or newer is needed", dir, m[1], MinMajor)
	}
	return Binaries{Dir: dir, Version: m[1], Major: major}, nil
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}
