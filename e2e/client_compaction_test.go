package e2e

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/store"
)

// The official client stays in sync, on one connection, while what it holds is
// changed and compacted again and again: a checksum that did not fit would make
// it connect anew.
func TestOfficialClientWhileCompacting(t *testing.T) {
	servers := startDevServers(t, "127.0.0.1:0")
	dev := servers.dev
	o := startOfficialClient(t)
	o.do(command{Do: "open", User: "alice", File: filepath.Join(t.TempDir(), "alice.db"), Endpoint: dev.URL, Token: dev.Tokens["alice"], Upload: dev.UploadURL}, nil)
	o.do(command{Do: "connect", User: "alice"}, nil)
	o.do(command{Do: "sync", User: "alice"}, nil)
	conn, err := pgx.Connect(t.Context(), dev.SidecarURI)
	fatal(t, err)
	defer conn.Close(t.Context())
	session := func() (id string, err error) {
		err = conn.QueryRow(t.Context(), `SELECT relay || ' ' || id FROM millrace.sessions WHERE user_id LIKE 'alice%'`).Scan(&id)
		return id, err
	}
	var first string
	pgtest.Eventually(t, time.Minute, func() (err error) { first, err = session(); return err })

	st, err := store.Open(t.Context(), dev.SidecarURI, store.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	fatal(t, err)
	var total store.CompactionReport
	for round := range 25 {
		execSQL(t, dev.SourceURI, fmt.Sprintf(`
			UPDATE todos SET title = 'round %d'; UPDATE lists SET name = 'round %[1]d' WHERE owner_id = 'alice';
			DELETE FROM todos WHERE id = (SELECT id FROM todos ORDER BY id DESC LIMIT 1) AND %[1]d %% 5 = 0`, round))
		r, err := st.CompactNow(t.Context(), store.CompactionOptions{})
		fatal(t, err)
		total.Deleted, total.Emptied = total.Deleted+r.Deleted, total.Emptied+r.Emptied
	}
	if total.Deleted+total.Emptied == 0 {
		t.Fatalf("nothing was compacted: %+v", total)
	}
	pgtest.Eventually(t, time.Minute, func() error {
		return o.shown("alice").mustEqual(mustBeEntitledTo(t, dev.SourceURI, "alice"))
	})
	last, err := session()
	fatal(t, err)
	if first != last {
		t.Errorf("the client connected anew: session %s, then %s", first, last)
	}
	var wrong int
	fatal(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM millrace.buckets b, millrace.verify_bucket(b.bucket) v WHERE NOT v.ok`).Scan(&wrong))
	if wrong > 0 {
		t.Errorf("%d buckets do not add up", wrong)
	}
	t.Logf("%d ops deleted, %d emptied meanwhile", total.Deleted, total.Emptied)
	if code := servers.process.terminate(t, time.Minute); code != 0 {
		t.Errorf("after SIGTERM millrace dev ends with %d, want 0", code)
	}
}
