package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgserver"
	"github.com/millrace/millrace/relay/relaytest"
)

// restoration is a sidecar that goes back to an earlier state under devices that
// have more.
type restoration struct {
	*demoSystem
	phone, tablet *device // over the native WebSocket, and NDJSON
	checker       *relaytest.Client
	written       int
	held          []string // buckets of the checker before
	at            millrace.OpID
}

func newRestoration(t *testing.T, o demoOptions) *restoration {
	t.Helper()
	r := &restoration{demoSystem: newDemo(t, o)}
	r.start()
	r.ready()
	r.phone, r.tablet = newDevice(t, r.demoSystem, "phone", "alice", clientsdk.WebSocket), newDevice(t, r.demoSystem, "tablet", "bob", clientsdk.HTTP)
	for _, v := range []*device{r.phone, r.tablet} {
		v.connect()
	}
	r.writes("before the backup")
	return r
}

// writes lets both devices and the source write, and waits until everybody has
// all of it.
func (r *restoration) writes(when string) {
	r.t.Helper()
	r.write(when)
	for _, v := range []*device{r.phone, r.tablet} {
		v.inSync(2 * waitTimeout)
	}
}

func (r *restoration) write(when string) {
	r.t.Helper()
	r.onSource(fmt.Sprintf(`UPDATE todos SET title = '%[1]s' WHERE id IN (SELECT id FROM todos ORDER BY id LIMIT 100);
		DELETE FROM todos WHERE id = (SELECT id FROM todos WHERE created_by = 'alice' ORDER BY id DESC LIMIT 1);
		INSERT INTO lists (name, owner_id) VALUES ('%[1]s', 'alice'), ('%[1]s', 'bob')`, when))
	for _, v := range []*device{r.phone, r.tablet} {
		r.written++
		_, err := v.db.Execute(r.t.Context(), `INSERT INTO todos (id, list_id, title, completed, created_by)
			SELECT ?, id, 'own, ' || ?, 0, ? FROM lists WHERE owner_id = ? ORDER BY id LIMIT 1`,
			fmt.Sprintf("88888888-0000-4000-b000-%012d", r.written), when, v.user, v.user)
		fatal(r.t, err)
	}
}

func (r *restoration) onSource(sql string) {
	r.t.Helper()
	execSQL(r.t, r.sourceURI, sql)
}

// watch connects a client that checks every line, and lets it have everything.
func (r *restoration) watch() {
	r.t.Helper()
	r.checker = relaytest.Dial(r.t, r.url, r.token("alice"), relaytest.Request("checker"), r.checker)
	r.follow()
}

// follow reads until the checker has what alice should, connecting again when a
// stream ends.
func (r *restoration) follow() {
	r.t.Helper()
	s := swarmClient{}
	want := mustBeEntitledTo(r.t, r.sourceURI, "alice")
	for deadline := time.Now().Add(2 * waitTimeout); ; {
		s.c = r.checker
		err := s.shown().mustEqual(want)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("the checking client at %d: %v", r.checker.At, err)
		}
		if _, err := r.checker.Next(); err != nil {
			r.t.Logf("the checking client's stream: %v", err)
			if !errors.Is(err, relaytest.ErrEnded) && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") {
				r.t.Fatal(err)
			}
			r.ready()
			r.checker = relaytest.Dial(r.t, r.url, r.token("alice"), relaytest.Request("checker"), r.checker)
		}
	}
}

// later is what happens after the backup: clients get it, the sidecar loses it.
func (r *restoration) later() {
	r.t.Helper()
	r.writes("after the backup")
	r.watch()
	r.held, r.at = slices.Sorted(maps.Keys(r.checker.Buckets)), r.checker.At
	if len(r.held) == 0 {
		r.t.Fatal("alice has no buckets")
	}
}

// recovers waits until everybody has the right rows, also what is written from
// now on, and checks that nothing of the lost history is mixed with the new one.
func (r *restoration) recovers() {
	r.t.Helper()
	r.writes("after the restore")
	r.follow()
	if r.checker.At <= r.at {
		r.t.Errorf("op ids went back from %d to %d", r.at, r.checker.At)
	}
	for name := range r.checker.Buckets {
		if slices.Contains(r.held, name) {
			r.t.Errorf("bucket %s has its old name", name)
		}
	}
	if n := query[int](r.t, r.sidecarURI, `SELECT count(*)::int FROM millrace.sources WHERE lost_at IS NOT NULL AND lost_reason LIKE '%the sidecar was restored%'`); n != 1 {
		r.t.Errorf("%d histories were lost by the restore, want 1", n)
	}
	if wrong := query[int](r.t, r.sidecarURI, `SELECT count(*)::int FROM millrace.buckets b, millrace.verify_bucket(b.bucket) v WHERE b.served AND NOT v.ok`); wrong > 0 {
		r.t.Errorf("%d buckets do not add up", wrong)
	}
	if n := query[int](r.t, r.sourceURI, `SELECT count(*)::int FROM pg_replication_slots WHERE database = current_database()`); n != 1 {
		r.t.Errorf("the source has %d slots, want 1", n)
	}
	if n := query[int](r.t, r.sidecarURI, `SELECT count(*)::int FROM millrace.pending_write_checkpoints`); n > 0 {
		r.t.Errorf("%d write checkpoints are not answered", n)
	}
}

// programs is the folder of PostgreSQL's programs, which must have some.
func programs(t *testing.T, names ...string) string {
	t.Helper()
	bin, err := pgserver.Find(t.Context(), "")
	fatal(t, err)
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(bin.Dir, name)); err != nil {
			t.Skipf("these PostgreSQL programs come without %s", name)
		}
	}
	return bin.Dir
}

// RA-46: the page about restoring the sidecar, step by step, from a dump, while
// everything runs and devices have more than the backup.
func TestRA46_RestoreTheSidecarPage(t *testing.T) {
	bin := programs(t, "pg_dump", "pg_restore", "psql")
	var blocks []string
	for _, b := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(readFile(t, "../docs/how-tos/restore-the-sidecar.md"), -1) {
		blocks = append(blocks, b[1])
	}
	if len(blocks) != 5 {
		t.Fatalf("the page has %d blocks, this test knows 5", len(blocks))
	}
	r := newRestoration(t, demoOptions{})
	name := query[string](t, r.sidecarURI, `SELECT current_database()::text`)
	millraceBinary, err := binary()
	fatal(t, err)
	tools := t.TempDir()
	fatal(t, os.Symlink(millraceBinary, filepath.Join(tools, "millrace")))
	step := func(block string) {
		t.Helper()
		block = strings.NewReplacer("millrace_restored", name+"_restored", "millrace_lost", name+"_lost",
			"DATABASE millrace ", "DATABASE "+name+" ", "'millrace'", "'"+name+"'", "TO millrace;", "TO "+name+";").Replace(block)
		block = regexp.MustCompile(`(?m)^   `).ReplaceAllString(block, "") // of a list
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", block)
		cmd.Dir = filepath.Dir(r.config)
		cmd.Env = append(cleanEnvironment(), "PATH="+tools+":"+bin+":"+os.Getenv("PATH"),
			"SIDECAR_URI="+r.sidecarURI, "ADMIN_URI="+r.sidecar.URI("postgres"), "RESTORED_URI="+r.sidecar.URI(name+"_restored"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s\n%v: %s", block, err, out)
		}
	}
	step(blocks[0])
	r.later()
	step(blocks[1])
	step(blocks[2])
	r.write("while it is restored")
	step(blocks[3])
	r.recovers()
	step(blocks[4])
}

// RA-46: the files of the sidecar's server are those of a base backup. Nobody
// says so: the decoder finds out by its slot.
func TestRA46_SidecarFilesRestored(t *testing.T) {
	bin := programs(t, "pg_basebackup")
	r := newRestoration(t, demoOptions{ownServers: true})
	data := r.sidecar.DataDir()
	backup := filepath.Join(t.TempDir(), "backup")
	sh := func(name string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = cleanEnvironment()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	sh(filepath.Join(bin, "pg_basebackup"), "--dbname", r.sidecar.URI("postgres"), "--pgdata", backup, "--checkpoint", "fast", "--wal-method", "stream")
	r.later()
	r.sidecar.Stop(t)
	sh("chown", "-R", "--reference", data, backup)
	sh("rm", "-rf", data)
	sh("cp", "-a", backup, data)
	r.write("while it is restored")
	r.sidecar.Start(t)
	r.recovers()
}
