package devserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"

	"github.com/millrace/millrace/internal/pgserver"
)

// fetchVersion is the PostgreSQL that is fetched when the machine has none.
const fetchVersion = embeddedpostgres.V17

// EnvRepository names the variable with the Maven repository that PostgreSQL
// is fetched from.
const EnvRepository = "MILLRACE_PG_REPOSITORY"

const defaultRepository = "https://repo1.maven.org/maven2"

// binaries finds PostgreSQL's programs, or fetches them.
func (d *dev) binaries(ctx context.Context) (pgserver.Binaries, error) {
	bin, err := pgserver.Find(ctx, d.PGBin)
	if err == nil || !errors.Is(err, pgserver.ErrNotFound) || d.Fetch == nil {
		return bin, err
	}
	cache, cacheErr := cacheDir()
	if cacheErr != nil {
		return bin, errors.Join(err, cacheErr)
	}
	return d.fetched(ctx, filepath.Join(cache, "postgresql-"+string(fetchVersion)))
}

// fetched returns the binaries in dir, fetching them if they are not there.
func (d *dev) fetched(ctx context.Context, dir string) (pgserver.Binaries, error) {
	binDir := filepath.Join(dir, "bin")
	if bin, err := pgserver.Inspect(ctx, binDir); err == nil {
		return bin, nil
	}
	title := fmt.Sprintf("PostgreSQL is not installed: fetching version %s (about 15 MB) from %s", fetchVersion, repository())
	if err := d.show.step(title, func() error { return d.Fetch(ctx, dir) }); err != nil {
		return pgserver.Binaries{}, fmt.Errorf(`PostgreSQL's server programs are not on this machine and could not be fetched: %w (%w)
Do one of these, then start again:
  - install PostgreSQL 14 or newer (Debian, Ubuntu: sudo apt-get install postgresql; macOS: brew install postgresql@17)
  - name the folder of its programs: --pg-bin DIR, or %s=DIR
  - name a Maven repository that can be reached: %s=https://…`, err, pgserver.ErrNotFound, pgserver.EnvBin, EnvRepository)
	}
	return pgserver.Inspect(ctx, binDir)
}

// cacheDir is where fetched programs are kept. PostgreSQL runs as another user
// when we are root, so root's own cache will not do.
func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/millrace", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for fetched programs: %w", err)
	}
	return filepath.Join(dir, "millrace"), nil
}

func repository() string { return orElse(os.Getenv(EnvRepository), defaultRepository) }

// FetchBinaries downloads PostgreSQL's server programs and unpacks them into
// dir. It cannot be interrupted and the library below may end the process, so
// it is run as a process of its own.
//
// The library only offers to fetch, make a cluster and start it in one go. It
// is given a locale that does not exist, so that it stops where the programs
// are unpacked.
func FetchBinaries(dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(parent, "fetch-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	// The library leaves its log in the temporary folder.
	defer os.Setenv("TMPDIR", os.Getenv("TMPDIR"))
	if err := os.Setenv("TMPDIR", work); err != nil {
		return err
	}
	unpacked := filepath.Join(work, "unpacked")
	messages, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer messages.Close()
	db := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(fetchVersion).
		Port(0).
		CachePath(filepath.Join(work, "archive")).
		RuntimePath(filepath.Join(work, "runtime")).
		DataPath(filepath.Join(work, "data")).
		BinariesPath(unpacked).
		BinaryRepositoryURL(repository()).
		Locale("none-for-millrace").
		Logger(messages))
	startErr := db.Start()
	if startErr == nil {
		startErr = db.Stop()
	}
	if _, err := pgserver.Inspect(context.Background(), filepath.Join(unpacked, "bin")); err != nil {
		return errors.Join(startErr, err)
	}
	// The server runs as another user when we are root.
	if err := os.Chmod(unpacked, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(unpacked, dir)
}
