package devserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/millrace/millrace/internal/pgserver"
)

// home is the folder of the development servers. It holds
//
//	millrace-dev.txt  the mark that the folder is ours
//	lock              held (flock) while it is used; who holds it
//	source, sidecar   the PostgreSQL clusters, unless clusters names a folder
//	clusters          where the clusters are instead
//	key               the signing key
//	schema            the hash of the schema the source was made from
//	sync.yaml         the demo's rules
//	dev.json          for scripts, while it runs
//	millrace.log      the log
//	spool             large source transactions, while they are read
type home struct {
	dir  string // absolute
	base string // folder of the clusters
	lock *os.File
}

const (
	markFile     = "millrace-dev.txt"
	markText     = "This folder belongs to `millrace dev`. `millrace dev --fresh` empties it;\nit may be deleted while nothing runs in it.\n"
	lockFile     = "lock"
	clustersFile = "clusters"
	schemaFile   = "schema"
	devFile      = "dev.json"
	logFile      = "millrace.log"
	spoolName    = "spool"
)

// rootBase is where a root process puts clusters when the folder is closed to
// the user that runs PostgreSQL.
var rootBase = "/var/lib/millrace-dev"

// clusterNames are the folders of the clusters.
var clusterNames = []string{"source", "sidecar"}

// openHome opens the folder or makes it, and locks it for this process. A
// folder that holds something else is refused.
func openHome(dir string) (*home, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("folder %q: %w", dir, err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder: %w; choose another with --data", err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	h := &home{dir: abs, base: abs}
	isNew := false
	if _, err := os.Stat(h.path(markFile)); errors.Is(err, os.ErrNotExist) {
		entries, err := os.ReadDir(abs)
		if err != nil {
			return nil, fmt.Errorf("look into the folder: %w", err)
		}
		for _, e := range entries {
			if e.Name() != lockFile {
				return nil, fmt.Errorf("%s holds files that are not of millrace dev (%s): name an empty or a new folder with --data", abs, e.Name())
			}
		}
		isNew = true
	} else if err != nil {
		return nil, fmt.Errorf("look into the folder: %w", err)
	}
	if h.lock, err = os.OpenFile(h.path(lockFile), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, fmt.Errorf("lock the folder: %w; choose another with --data", err)
	}
	if err := syscall.Flock(int(h.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer h.lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			holder, _ := os.ReadFile(h.path(lockFile)) // for the message only
			return nil, fmt.Errorf("another millrace dev uses %s (%s): stop it, or choose another folder with --data", abs, orElse(strings.TrimSpace(string(holder)), "it is just starting"))
		}
		return nil, fmt.Errorf("lock %s: %w", h.path(lockFile), err)
	}
	if err := h.place(isNew); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *home) path(name string) string    { return filepath.Join(h.dir, name) }
func (h *home) cluster(name string) string { return filepath.Join(h.base, name) }

// place decides where the clusters are, and marks a new folder as ours.
func (h *home) place(isNew bool) error {
	switch b, err := os.ReadFile(h.path(clustersFile)); {
	case err == nil:
		h.base = strings.TrimSpace(string(b))
		if filepath.Dir(h.base) != rootBase {
			return fmt.Errorf("%s names the folder %q, which is none of ours", h.path(clustersFile), h.base)
		}
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("look for the clusters: %w", err)
	default:
		var closed *pgserver.UnreachableError
		err := pgserver.Reachable(h.dir)
		if err == nil {
			break
		}
		if !errors.As(err, &closed) {
			return err
		}
		sum := sha256.Sum256([]byte(h.dir))
		h.base = filepath.Join(rootBase, hex.EncodeToString(sum[:8]))
		if err := os.MkdirAll(h.base, 0o755); err != nil {
			return fmt.Errorf("%w (and %s cannot be made: %w)", closed, h.base, err)
		}
		if isNew {
			// The folder was deleted and made again: what it had is not wanted.
			if err := h.wipeClusters(context.Background()); err != nil {
				return err
			}
		}
		if err := os.WriteFile(h.path(clustersFile), []byte(h.base+"\n"), 0o644); err != nil {
			return fmt.Errorf("note where the clusters are: %w", err)
		}
	}
	if isNew {
		if err := os.WriteFile(h.path(markFile), []byte(markText), 0o644); err != nil {
			return fmt.Errorf("mark the folder: %w", err)
		}
	}
	return nil
}

// claim notes who holds the lock, for the message another start shows.
func (h *home) claim(address string) error {
	text := fmt.Sprintf("pid %d, http://%s\n", os.Getpid(), address)
	if err := h.lock.Truncate(0); err != nil {
		return fmt.Errorf("lock the folder: %w", err)
	}
	if _, err := h.lock.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("lock the folder: %w", err)
	}
	// Left by a run that was killed.
	h.removeDevFile()
	return nil
}

// close gives the folder back.
func (h *home) close() { _ = h.lock.Close() } // the kernel unlocks

// wipe stops what still runs and removes all data.
func (h *home) wipe(ctx context.Context) error {
	if err := h.wipeClusters(ctx); err != nil {
		return err
	}
	for _, name := range []string{schemaFile, keyFile, devFile, "sync.yaml", logFile, logFile + ".1"} {
		if err := os.Remove(h.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("start over: %w", err)
		}
	}
	if err := os.RemoveAll(h.path(spoolName)); err != nil {
		return fmt.Errorf("start over: %w", err)
	}
	return nil
}

func (h *home) wipeClusters(ctx context.Context) error {
	for _, name := range clusterNames {
		if err := pgserver.StopIn(ctx, h.cluster(name)); err != nil {
			return fmt.Errorf("start over: %w", err)
		}
		if err := os.RemoveAll(h.cluster(name)); err != nil {
			return fmt.Errorf("start over: %w", err)
		}
	}
	return nil
}

// schemaChanged notes the schema of a source that was just made, and tells
// whether one made earlier came from another.
func (h *home) schemaChanged(made bool, hash string) (bool, error) {
	if !made {
		b, err := os.ReadFile(h.path(schemaFile))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("compare the schema: %w", err)
		}
		return err == nil && strings.TrimSpace(string(b)) != hash, nil
	}
	if err := os.WriteFile(h.path(schemaFile), []byte(hash+"\n"), 0o644); err != nil {
		return false, fmt.Errorf("note the schema: %w", err)
	}
	return false, nil
}

// ConsolePath is the read-only status page.
const ConsolePath = "/console/"

// DevFile is what DIR/dev.json tells scripts while `millrace dev` runs.
type DevFile struct {
	URL        string            `json:"url"`
	ConsoleURL string            `json:"console_url"`
	SourceURI  string            `json:"source_uri"`
	SidecarURI string            `json:"sidecar_uri"`
	UploadURL  string            `json:"upload_url"` // empty with a schema of one's own
	Rules      string            `json:"rules"`      // path of the rules file; a save deploys it
	Tokens     map[string]string `json:"tokens"`
	PID        int               `json:"pid"`
}

// writeDevFile puts the file there whole.
func (h *home) writeDevFile(f DevFile) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", devFile, err)
	}
	tmp := h.path(devFile + ".new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", devFile, err)
	}
	if err := os.Rename(tmp, h.path(devFile)); err != nil {
		return fmt.Errorf("write %s: %w", devFile, err)
	}
	return nil
}

// ReadDevFile reads the dev.json of the servers that run in a folder.
func ReadDevFile(dir string) (DevFile, error) {
	var f DevFile
	path := filepath.Join(dir, devFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return f, fmt.Errorf("millrace dev does not run in %s (there is no %s): start it, name its folder with --data, or a configuration with -c", dir, path)
	} else if err != nil {
		return f, fmt.Errorf("look for the development servers: %w", err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return f, fmt.Errorf("read %s: %w", path, err)
	}
	return f, nil
}

func (h *home) removeDevFile() { _ = os.Remove(h.path(devFile)) } // usually not there

// openLog opens the folder's log for appending; one beyond 8 MiB is moved aside.
func openLog(dir string) (*os.File, error) {
	path := filepath.Join(dir, logFile)
	if fi, err := os.Stat(path); err == nil && fi.Size() > 8<<20 {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("rotate the log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
