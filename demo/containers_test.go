package demo_test

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/millrace/millrace/config"
)

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func loadCompose(t *testing.T) *types.Project {
	t.Helper()
	dir := root(t)
	file := filepath.Join(dir, "compose.yaml")
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: file}},
		Environment: types.Mapping{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestComposeFile(t *testing.T) {
	project := loadCompose(t)
	if got := slices.Sorted(slices.Values(project.ServiceNames())); strings.Join(got, " ") != "millrace sidecar source" {
		t.Errorf("services %v", got)
	}
	for _, s := range project.Services {
		if s.HealthCheck == nil || len(s.HealthCheck.Test) == 0 {
			t.Errorf("service %s has no health check", s.Name)
		}
		for _, v := range s.Volumes {
			switch v.Type {
			case types.VolumeTypeBind:
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("service %s mounts what is not there: %v", s.Name, err)
				}
			case types.VolumeTypeVolume:
				if _, ok := project.Volumes[v.Source]; !ok {
					t.Errorf("service %s mounts volume %q, which is not declared", s.Name, v.Source)
				}
			}
		}
		for _, p := range s.Ports {
			if p.HostIP != "127.0.0.1" {
				t.Errorf("service %s publishes port %d to %q: the demo's passwords are no secret", s.Name, p.Target, p.HostIP)
			}
		}
	}
	for _, name := range []string{"source", "sidecar"} {
		if c := project.Services["millrace"].DependsOn[name].Condition; c != types.ServiceConditionHealthy {
			t.Errorf("millrace waits for %s to be %q", name, c)
		}
	}
	if !slices.Contains(project.Services["source"].Command, "wal_level=logical") {
		t.Error("the source has no logical replication")
	}
}

// The configuration that the container mounts is valid with the environment
// that compose.yaml gives it, and leads to the compose services.
func TestComposeConfiguration(t *testing.T) {
	project := loadCompose(t)
	var environ []string
	for name, value := range project.Services["millrace"].Environment {
		environ = append(environ, name+"="+*value)
	}
	cfg, err := config.Load("millrace.yaml", environ)
	if err != nil {
		t.Fatal(err)
	}
	for uri, service := range map[config.URI]string{cfg.Sources[0].URI: "source", cfg.Sidecar.URI: "sidecar"} {
		env := project.Services[service].Environment
		want := "postgres://postgres:" + *env["POSTGRES_PASSWORD"] + "@" + service + ":5432/" + *env["POSTGRES_DB"]
		if string(uri) != want {
			t.Errorf("the %s is reached at %q, want %q", service, string(uri), want)
		}
	}
	if _, err := os.Stat(cfg.Rules); err != nil {
		t.Error(err)
	}
	if port := strings.TrimPrefix(cfg.Relay.Listen, "0.0.0.0:"); port != "8080" {
		t.Errorf("listens on %s, and compose.yaml publishes 8080", cfg.Relay.Listen)
	}
}

var (
	appLine   = regexp.MustCompile(`(?m)^RUN (cd .*npm .*)$`)
	buildLine = regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 go build .*)$`)
	// Where the app's stage leaves the app, and where the program's takes it.
	appCopy = regexp.MustCompile(`(?m)^COPY --from=app /src/(\S+) (\S+)$`)
	// The app's script, which has the hash of its content in its name.
	appScript = regexp.MustCompile(`assets/index-[\w-]+\.js`)
)

// TestDockerfileBuilds runs the Dockerfile's build steps on a copy of what its
// context holds.
func TestDockerfileBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the binary from scratch")
	}
	text, err := os.ReadFile(filepath.Join(root(t), "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	found := buildLine.FindStringSubmatch(string(text))
	if found == nil {
		t.Fatalf("no build line in the Dockerfile:\n%s", text)
	}
	checkCopies(t, string(text))

	dir := t.TempDir()
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out", "millrace")
	copyTracked(t, src)
	script := buildApp(t, string(text), src)
	inFolder(t, src, strings.ReplaceAll(found[1], "/out/millrace", out))

	binary, err := elf.Open(out)
	if err != nil {
		t.Skipf("this system's programs are no ELF files: %v", err)
	}
	defer binary.Close()
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary needs a dynamic linker, and the image has none")
		}
	}
	if libs, err := binary.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("the binary needs libraries %v (%v)", libs, err)
	}
	said, err := exec.CommandContext(t.Context(), out, "version").Output()
	if err != nil || strings.TrimSpace(string(said)) != "millrace v1.2.3-test" {
		t.Errorf("version says %q (%v)", said, err)
	}
	if script == "" {
		return
	}
	if program, err := os.ReadFile(out); err != nil || !bytes.Contains(program, []byte(script)) {
		t.Errorf("the program does not hold %s (%v)", script, err)
	}
}

// buildApp runs the steps of the app's stage, and gives the name of the script
// they made. Both stages have the context in /src, so the copy from one to the
// other stays where it is. Without npm, which `make test` insists on, it does
// nothing.
func buildApp(t *testing.T, dockerfile, src string) (script string) {
	t.Helper()
	paths := appCopy.FindStringSubmatch(dockerfile)
	if paths == nil || paths[1] != paths[2] {
		t.Fatalf("the app is not copied from its stage: %q", paths)
	}
	if strings.Index(dockerfile, paths[0]) > buildLine.FindStringIndex(dockerfile)[0] {
		t.Error("the app is copied after the program was built")
	}
	steps := appLine.FindAllStringSubmatch(dockerfile, -1)
	if len(steps) == 0 {
		t.Fatal("no step of the Dockerfile builds the app")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		t.Logf("the app's steps are not run: %v", err)
		return ""
	}
	for _, step := range steps {
		inFolder(t, src, step[1])
	}
	page, err := os.ReadFile(filepath.Join(src, paths[1], "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	if script = appScript.FindString(string(page)); script == "" {
		t.Fatalf("the page has no script:\n%s", page)
	}
	return script
}

// inFolder runs a step of the Dockerfile.
func inFolder(t *testing.T, dir, step string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", step)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "VERSION=v1.2.3-test", "GOFLAGS=-buildvcs=false")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", step, err, said)
	}
}

// checkCopies makes sure that what is copied from the context is there, and
// that the image runs as a user without rights.
func checkCopies(t *testing.T, dockerfile string) {
	t.Helper()
	for line := range strings.Lines(dockerfile) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "COPY" || strings.HasPrefix(f[1], "--from") {
			continue
		}
		for _, path := range f[1 : len(f)-1] {
			if _, err := os.Stat(filepath.Join(root(t), path)); err != nil {
				t.Errorf("%s: %v", strings.TrimSpace(line), err)
			}
		}
	}
	if !regexp.MustCompile(`(?m)^USER [1-9]\d*:[1-9]\d*$`).MatchString(dockerfile) {
		t.Error("the image runs as root")
	}
}

// copyTracked copies the files of the repository that an image is built of.
func copyTracked(t *testing.T, to string) {
	t.Helper()
	list := gitFiles(t.Context(), root(t))
	if list == nil { // no repository: a source archive
		if err := os.CopyFS(to, os.DirFS(root(t))); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, path := range list {
		b, err := os.ReadFile(filepath.Join(root(t), path))
		if err != nil {
			continue // removed and not committed yet
		}
		target := filepath.Join(to, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(target, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// gitFiles lists the tracked and the new files; nil without a repository.
func gitFiles(ctx context.Context, dir string) []string {
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
}
