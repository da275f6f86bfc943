package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgserver"
)

const (
	slot        = "millrace_bench"
	publication = "millrace"
	naiveSlot   = "bench_naive"
)

// schema is nine columns, about 270 bytes of a row in the stream and 400 bytes
// of JSON.
const schema = `
CREATE TABLE tasks (
  id uuid PRIMARY KEY,
  list_id uuid NOT NULL,
  owner text NOT NULL,
  title text NOT NULL,
  description text NOT NULL,
  status text NOT NULL,
  priority integer NOT NULL,
  done boolean NOT NULL,
  created_at timestamptz NOT NULL
);
CREATE TABLE sized (id uuid PRIMARY KEY, owner text NOT NULL, note text NOT NULL);
CREATE TABLE marks (id text PRIMARY KEY, n bigint NOT NULL);
INSERT INTO marks VALUES ('mark', 0);
CREATE PROCEDURE load(total int, size int) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. total / size LOOP
    INSERT INTO tasks SELECT gen_random_uuid(), gen_random_uuid(), 'user' || g % 100, 'Task number ' || g,
      repeat(md5(g::text), 4), 'open', g % 5, g % 2 = 0, '2024-01-01'::timestamptz + g * interval '1 second'
    FROM generate_series(i * size, i * size + size - 1) g;
    COMMIT;
  END LOOP;
END $$`

const rules = `config:
  edition: 2
bucket_definitions:
  marks:
    data:
      - SELECT * FROM marks
  by_owner:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM tasks WHERE owner = bucket.owner
  sized:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM sized WHERE owner = bucket.owner
`

// bed is what measurements run on: two servers and a configured binary.
type bed struct {
	settings        settings
	dir             string
	binary, config  string
	source, sidecar *pgserver.Server
	src, side       *pgx.Conn
	marked          int64
}

func newBed(ctx context.Context, dir string, s settings) (_ *bed, err error) {
	b := &bed{settings: s, dir: dir, binary: s.binary}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	bin, err := pgserver.Find(ctx, s.pgBin)
	if err != nil {
		return nil, err
	}
	memory := map[string]string{"shared_buffers": "512MB", "max_wal_size": "8GB", "jit": "off", "autovacuum_naptime": "10s"}
	if s.only == "memory" {
		memory["shared_buffers"], memory["max_wal_size"] = "256MB", "2GB" // it writes tens of gigabytes
	}
	start := func(name string, settings map[string]string) (*pgserver.Server, *pgx.Conn, error) {
		for k, v := range memory {
			settings[k] = v
		}
		server, err := pgserver.Start(ctx, pgserver.Config{Binaries: bin, Dir: filepath.Join(dir, name), Settings: settings, EndWithParent: true})
		if err != nil {
			return nil, nil, err
		}
		conn, err := connect(ctx, server.URI("postgres"))
		return server, conn, err
	}
	// The source's durability is not what is measured, but it must commit
	// synchronously: WAL is sent once it is flushed, which would wait 200 ms.
	if b.source, b.src, err = start("source", map[string]string{"wal_level": "logical", "fsync": "off", "max_replication_slots": "10", "wal_sender_timeout": "10s"}); err != nil {
		return nil, err
	}
	if b.sidecar, b.side, err = start("sidecar", map[string]string{"fsync": "on", "synchronous_commit": "on"}); err != nil {
		return nil, err
	}
	if _, err := b.src.Exec(ctx, schema, pgx.QueryExecModeSimpleProtocol); err != nil {
		return nil, fmt.Errorf("create the table: %w", err)
	}
	return b, nil
}

// install builds the binary, writes its configuration and migrates the sidecar.
func (b *bed) install(ctx context.Context) error {
	if b.binary == "" {
		b.binary = filepath.Join(b.dir, "millrace")
		progress("building the binary")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", b.binary, "github.com/millrace/millrace/cmd/millrace")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build the binary: %w\n%s", err, out)
		}
	}
	rulesFile := filepath.Join(b.dir, "sync.yaml")
	b.config = filepath.Join(b.dir, "millrace.yaml")
	text := fmt.Sprintf("sources:\n  - name: main\n    uri: %q\n    slot: %s\n    publication: %s\nsidecar:\n  uri: %q\nrules: %q\n",
		b.source.URI("postgres"), slot, publication, b.sidecar.URI("postgres"), rulesFile)
	if err := errors.Join(os.WriteFile(rulesFile, []byte(rules), 0o600), os.WriteFile(b.config, []byte(text), 0o600)); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, b.binary, "migrate", "up", "-c", b.config).CombinedOutput(); err != nil {
		return fmt.Errorf("migrate: %w\n%s", err, out)
	}
	return nil
}

func connect(ctx context.Context, uri string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(uri)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = "bench"
	return pgx.ConnectConfig(ctx, cfg)
}

func (b *bed) close() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, c := range []*pgx.Conn{b.src, b.side} {
		if c != nil {
			_ = c.Close(ctx)
		}
	}
	for _, s := range []*pgserver.Server{b.source, b.sidecar} {
		if s != nil {
			err = errors.Join(err, s.Stop(ctx))
		}
	}
	return err
}

// describe fills in what a figure is worthless without.
func (b *bed) describe(ctx context.Context, r *report) error {
	if err := b.src.QueryRow(ctx, "SHOW server_version").Scan(&r.postgres); err != nil {
		return err
	}
	r.machine = machine()
	if out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12").Output(); err == nil {
		r.commit = strings.TrimSpace(string(out))
	}
	if out, err := exec.CommandContext(ctx, "go", "version").Output(); err == nil {
		r.goVersion = strings.TrimPrefix(strings.TrimSpace(string(out)), "go version ")
	}
	return nil
}

// load writes rows in transactions of size rows, then a mark.
func (b *bed) load(ctx context.Context, rows, size int) error {
	if _, err := b.src.Exec(ctx, fmt.Sprintf("CALL load(%d, %d)", rows, size)); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	b.marked++
	if _, err := b.src.Exec(ctx, "UPDATE marks SET n = $1 WHERE id = 'mark'", b.marked); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	// What autovacuum and the checkpointer have to do for the load is not part
	// of any measurement.
	_, err := b.src.Exec(ctx, "CHECKPOINT")
	return err
}

// endOfLoad is a position after everything loaded, with one more commit past it,
// so that a reader is told when it is there.
func (b *bed) endOfLoad(ctx context.Context) (pglogrepl.LSN, error) {
	var end string
	if err := b.src.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&end); err != nil {
		return 0, err
	}
	b.marked++
	if _, err := b.src.Exec(ctx, "UPDATE marks SET n = $1 WHERE id = 'mark'", b.marked); err != nil {
		return 0, err
	}
	return pglogrepl.ParseLSN(end)
}
