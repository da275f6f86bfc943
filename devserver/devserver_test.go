package devserver

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/millrace/millrace/internal/pgserver"
)

// tempDir is a folder that another user's server can reach, unlike t.TempDir.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "millrace-devserver-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestHomeIsMadeMarkedAndLocked(t *testing.T) {
	dir := filepath.Join(tempDir(t), "a", "b")
	h, err := openHome(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openHome(dir); err == nil || !strings.Contains(err.Error(), "another millrace dev uses "+dir+" (it is just starting)") {
		t.Errorf("second start: %v", err)
	}
	if err := h.claim("127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	_, err = openHome(dir)
	if err == nil || !strings.Contains(err.Error(), "http://127.0.0.1:1") || !strings.Contains(err.Error(), "--data") {
		t.Errorf("second start: %v", err)
	}
	h.close()
	h, err = openHome(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	h.close()
}

func TestHomeOfSomebodyElseIsRefused(t *testing.T) {
	dir := tempDir(t)
	precious := filepath.Join(dir, "precious.txt")
	if err := os.WriteFile(precious, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openHome(dir); err == nil || !strings.Contains(err.Error(), "precious.txt") {
		t.Errorf("error = %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v (%v)", entries, err)
	}
}

func TestWipeKeepsWhatIsNotOurs(t *testing.T) {
	h, err := openHome(tempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	for _, name := range []string{"mine.txt", keyFile, devFile, "sync.yaml"} {
		if err := os.WriteFile(h.path(name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(h.cluster("source"), "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.wipe(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if got := strings.Join(left, " "); got != "lock millrace-dev.txt mine.txt" {
		t.Errorf("left: %s", got)
	}
}

// As root, a folder that the servers' user cannot enter gets its clusters
// elsewhere, and keeps them.
func TestClustersOfAClosedFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has PostgreSQL run as another user")
	}
	old := rootBase
	rootBase = filepath.Join(tempDir(t), "lib")
	t.Cleanup(func() { rootBase = old })
	parent := tempDir(t)
	if err := os.Chmod(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "dev")
	open := func() *home {
		t.Helper()
		h, err := openHome(dir)
		if err != nil {
			t.Fatal(err)
		}
		h.close()
		return h
	}
	h := open()
	if filepath.Dir(h.base) != rootBase {
		t.Fatalf("clusters are in %s", h.base)
	}
	data := filepath.Join(h.cluster("source"), "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if again := open(); again.base != h.base {
		t.Errorf("clusters moved to %s", again.base)
	}
	if _, err := os.Stat(data); err != nil {
		t.Errorf("the data are gone: %v", err)
	}
	// Who deletes the folder wants to start over.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	open()
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the data of a deleted folder are back (%v)", err)
	}
	if err := os.WriteFile(filepath.Join(dir, clustersFile), []byte("/etc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openHome(dir); err == nil || !strings.Contains(err.Error(), `"/etc", which is none of ours`) {
		t.Errorf("error = %v", err)
	}
}

func TestDevFile(t *testing.T) {
	h, err := openHome(tempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if err := h.writeDevFile(DevFile{URL: "http://x", Tokens: map[string]string{"alice": "a", "bob": "b"}, PID: 7}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(h.path(devFile))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"url", "console_url", "source_uri", "sidecar_uri", "upload_url", "rules", "tokens", "pid"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing in %s", name, b)
		}
	}
	if len(got) != 8 {
		t.Errorf("%d fields in %s", len(got), b)
	}
	if fi, err := os.Stat(h.path(devFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v)", fi.Mode(), err)
	}
	if err := h.claim("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(h.path(devFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a killed run is still there (%v)", err)
	}
}

func TestKeyStaysAndSigns(t *testing.T) {
	dir := t.TempDir()
	key, err := LoadKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadKey(dir)
	if err != nil || !bytes.Equal(key.Secret, again.Secret) || len(key.Secret) != 32 {
		t.Errorf("the key changed (%v)", err)
	}
	now := time.Unix(1_800_000_000, 0)
	text, err := key.Sign("alice", map[string]any{"role": "admin", "sub": "mallory"}, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Parse(text, func(*jwt.Token) (any, error) { return key.Secret, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithAudience("millrace"), jwt.WithSubject("alice"),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(func() time.Time { return now.Add(59 * time.Minute) }))
	if err != nil {
		t.Fatal(err)
	}
	if token.Header["kid"] != "dev" || token.Claims.(jwt.MapClaims)["role"] != "admin" {
		t.Errorf("token %v", token)
	}
	text, err = key.Sign("alice", nil, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if sub, err := key.Verify(text); err != nil || sub != "alice" {
		t.Errorf("verified %q (%v)", sub, err)
	}
	other := Key{Secret: bytes.Repeat([]byte("x"), 32), Audience: "elsewhere"}
	for name, bad := range map[string]func() (string, error){
		"expired":     func() (string, error) { return key.Sign("alice", nil, -time.Hour, time.Now()) },
		"another key": func() (string, error) { return other.Sign("alice", nil, time.Hour, time.Now()) },
		"no user":     func() (string, error) { return key.Sign("", nil, time.Hour, time.Now()) },
		"not a token": func() (string, error) { return "x.y.z", nil },
		"not signed": func() (string, error) {
			return jwt.New(jwt.SigningMethodNone).SignedString(jwt.UnsafeAllowNoneSignatureType)
		},
		"another aud": func() (string, error) {
			return Key{Secret: key.Secret, Audience: "elsewhere"}.Sign("alice", nil, time.Hour, time.Now())
		},
	} {
		text, err := bad()
		if err != nil {
			t.Fatal(err)
		}
		if sub, err := key.Verify(text); err == nil {
			t.Errorf("%s: accepted for %q", name, sub)
		}
	}
	jwk, err := key.JWK()
	if err != nil || !strings.Contains(string(jwk), `"kty":"oct"`) {
		t.Errorf("JWK %s (%v)", jwk, err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyFile), []byte("short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(dir); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("error = %v", err)
	}
}

func TestLineOf(t *testing.T) {
	for _, tc := range []struct {
		position int32
		want     int
	}{{0, 0}, {1, 1}, {4, 1}, {5, 2}, {6, 2}, {99, 3}} {
		if got := lineOf([]byte("é12\nä\nz"), tc.position); got != tc.want {
			t.Errorf("lineOf(%d) = %d, want %d", tc.position, got, tc.want)
		}
	}
}

func TestProgressOfALongStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, false)
		err := p.stepProgress("Copying", func(report func(string)) error {
			report("1 of 2")
			time.Sleep(11 * time.Second)
			return nil
		})
		if want := "  Copying … 5s, 1 of 2\n  Copying … 10s, 1 of 2\n  Copying … 11s\n"; err != nil || out.String() != want {
			t.Errorf("shown %q (%v), want %q", out.String(), err, want)
		}
	})
}

func TestProgressOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, true)
		boom := errors.New("boom")
		err := p.step("Copying", func() error {
			time.Sleep(2300 * time.Millisecond)
			return boom
		})
		if !errors.Is(err, boom) {
			t.Errorf("error = %v", err)
		}
		if want := "  Copying …\r\x1b[K  Copying … 2s\r\x1b[K  Copying … 2s\r\x1b[K"; out.String() != want {
			t.Errorf("shown %q, want %q", out.String(), want)
		}
	})
}

// repositoryServer serves the archive as a Maven repository does. spoil may
// change the answer.
func repositoryServer(t *testing.T, spoil func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	programs, err := os.ReadFile("testdata/programs.txz")
	if err != nil {
		t.Fatal(err)
	}
	var jar bytes.Buffer
	z := zip.NewWriter(&jar)
	f, err := z.Create("postgres-linux-x86_64.txz")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(programs); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(jar.Bytes())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case spoil != nil && spoil(w, r):
		case strings.HasSuffix(r.URL.Path, ".jar"):
			w.Write(jar.Bytes())
		case strings.HasSuffix(r.URL.Path, ".jar.sha256"):
			io.WriteString(w, hex.EncodeToString(sum[:]))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestFetchBinaries(t *testing.T) {
	t.Setenv(EnvRepository, repositoryServer(t, nil))
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	dir := filepath.Join(t.TempDir(), "cache", "pg")
	if err := FetchBinaries(dir); err != nil {
		t.Fatal(err)
	}
	bin, err := pgserver.Inspect(t.Context(), filepath.Join(dir, "bin"))
	if err != nil || bin.Version != "17.5" {
		t.Errorf("fetched %+v (%v)", bin, err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 1 {
		t.Errorf("left beside it: %v (%v)", entries, err)
	}
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 0 {
		t.Errorf("left in the temporary folder: %v (%v)", entries, err)
	}
}

func TestFetchFailuresSayWhatToDo(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	for _, tc := range []struct{ name, repository, want string }{
		{"nobody there", closed.URL, "unable to connect to " + closed.URL},
		{"not in the repository", repositoryServer(t, func(w http.ResponseWriter, r *http.Request) bool {
			http.NotFound(w, r)
			return true
		}), "no version found matching 17"},
		{"damaged", repositoryServer(t, func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, ".sha256") {
				io.WriteString(w, strings.Repeat("0", 64))
				return true
			}
			return false
		}), "checksums do not match"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv(EnvRepository, tc.repository)
			d := &dev{show: newProgress(io.Discard, false)}
			d.Fetch = func(_ context.Context, dir string) error { return FetchBinaries(dir) }
			_, err := d.fetched(t.Context(), filepath.Join(t.TempDir(), "pg"))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{tc.want, "apt-get install postgresql", "--pg-bin DIR", "MILLRACE_PG_BIN", "MILLRACE_PG_REPOSITORY"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in: %v", want, err)
				}
			}
		})
	}
}
