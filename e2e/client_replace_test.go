package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
)

// The official client stays in sync, on one connection, while the source's
// tables are truncated, change their identity and types, and are made again: a
// checksum that did not fit, such as that of a CLEAR, would make it connect
// anew.
func TestOfficialClientWhileTablesChange(t *testing.T) {
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
	const one = "INSERT INTO lists SELECT * FROM aside.l WHERE owner_id = 'alice' ORDER BY id LIMIT 1"
	for _, sql := range []string{
		"CREATE SCHEMA aside; CREATE TABLE aside.l AS TABLE lists; CREATE TABLE aside.t AS TABLE todos; CREATE TABLE aside.m AS TABLE list_members; TRUNCATE lists, todos, list_members; " + one,
		"INSERT INTO lists SELECT * FROM aside.l ON CONFLICT DO NOTHING; INSERT INTO todos SELECT * FROM aside.t; INSERT INTO list_members SELECT * FROM aside.m",
		"ALTER TABLE todos REPLICA IDENTITY FULL; UPDATE todos SET title = title || '!' WHERE completed",
		"ALTER TABLE todos ALTER title TYPE varchar(900) USING left(title, 20); UPDATE todos SET title = 'touched' WHERE NOT completed",
		"BEGIN; ALTER TABLE todos RENAME TO todos_old; CREATE TABLE todos (LIKE todos_old INCLUDING ALL); INSERT INTO todos SELECT * FROM todos_old WHERE completed; DROP TABLE todos_old; COMMIT; UPDATE todos SET title = 'made again'",
		"TRUNCATE lists, todos, list_members; " + one,
	} {
		execSQL(t, dev.SourceURI, sql)
		pgtest.Eventually(t, 2*time.Minute, func() error {
			if err := o.shown("alice").mustEqual(mustBeEntitledTo(t, dev.SourceURI, "alice")); err != nil {
				return fmt.Errorf("after %s: %w", sql, err)
			}
			return nil
		})
	}
	last, err := session()
	fatal(t, err)
	if first != last {
		t.Errorf("the client connected anew: session %s, then %s", first, last)
	}
	var clears, wrong int
	fatal(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM millrace.ops WHERE kind = 4`).Scan(&clears))
	fatal(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM millrace.buckets b, millrace.verify_bucket(b.bucket) v WHERE NOT v.ok`).Scan(&wrong))
	if clears == 0 || wrong > 0 {
		t.Errorf("%d clears, %d buckets that do not add up", clears, wrong)
	}
	if code := servers.process.terminate(t, time.Minute); code != 0 {
		t.Errorf("after SIGTERM millrace dev ends with %d, want 0", code)
	}
}
