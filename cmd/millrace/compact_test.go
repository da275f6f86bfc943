package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/migrations"
	"github.com/millrace/millrace/store"
)

// TestCompact: the command compacts the bucket it is given, up to the horizon of
// the configuration, and says what it did.
func TestCompact(t *testing.T) {
	uri := pgtest.Shared(t).Database(t)
	if err := migrations.Up(t.Context(), uri); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// A bucket of one row that was put a hundred times, half an hour ago.
	_, err = conn.Exec(t.Context(), `
		INSERT INTO millrace.definition_versions (id, kind, hash, key, name, wire_prefix) VALUES (1, 'bucket', 'aa', 'bucket:b', 'b', 'abcde');
		INSERT INTO millrace.rule_sets (id, content, state, active_from, mapping, activated_at)
			VALUES (1, 'rules', 'active', 1, '[{"key": "bucket:b", "kind": "bucket", "name": "b", "definition": 1}]', now());
		CALL millrace.add_partitions(1);
		INSERT INTO millrace.bucket_names VALUES (1, 1, 'b[]');
		INSERT INTO millrace.ops (bucket, op_id, definition, checksum, kind, type, row_id, data)
			SELECT 1, i + 1, 1, millrace.op_checksum(1, 't', 'r', NULL, '{}'), 1, 't', 'r', '{}' FROM generate_series(1, 100) i;
		INSERT INTO millrace.bucket_totals SELECT 1, 101, 100, 1, 200, millrace.wrap32(sum(checksum)) FROM millrace.ops;
		UPDATE millrace.head SET op_id = 101, seq = 1;
		INSERT INTO millrace.checkpoint_log VALUES (1, 101, now() - interval '30 minutes', NULL, '{}', '{1}', '{}')`)
	if err != nil {
		t.Fatal(err)
	}
	young := configFile(t, "postgres://127.0.0.1:1/app", uri, "compaction: {horizon: 1h}\n")
	if out, errOut, code := run(t, "compact", "-c", young); code != exitOK || !strings.Contains(out, "nothing is older than compaction.horizon, 1h0m0s") {
		t.Errorf("with a horizon of an hour: %d\n%s%s", code, out, errOut)
	}
	cfg := configFile(t, "postgres://127.0.0.1:1/app", uri, "")
	if _, errOut, code := run(t, "compact", "-c", cfg, "--bucket", "c[]"); code != exitFinding || !strings.Contains(errOut, "there is no bucket c[]") {
		t.Errorf("an unknown bucket: %d %s", code, errOut)
	}
	out, errOut, code := run(t, "compact", "-c", cfg, "--bucket", "b[]", "--json")
	var r store.CompactionReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitOK {
		t.Fatalf("%d %v\n%s%s", code, err, out, errOut)
	}
	if want := (store.CompactionReport{Buckets: 1, Done: 1, Deleted: 98, Bytes: 198, Horizon: 101}); r != want {
		t.Errorf("report %+v, want %+v", r, want)
	}
	out, _, code = run(t, "compact", "-c", cfg)
	if code != exitOK || !strings.Contains(out, "0 ops deleted") {
		t.Errorf("again: %d\n%s", code, out)
	}
	if _, _, code := run(t, "compact", "-c", configFile(t, "postgres://h/app", "postgres://127.0.0.1:1/m", "")); code != exitUnreachable {
		t.Errorf("an unreachable sidecar: %d", code)
	}
}
