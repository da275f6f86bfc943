package decoder

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/internal/pgtest"
)

// Rows that no client can hold are listed by table and key, whether a copy or
// the stream brings them, and the others go on.
func TestRowsThatNoClientCanHold(t *testing.T) {
	server := pgtest.Shared(t)
	f := newFixture(t, server, wideRules)
	ascii := fmt.Sprintf("ascii_%d", f.head())
	f.exec("create database " + ascii + " encoding 'SQL_ASCII' template template0 lc_collate 'C' lc_ctype 'C'")
	t.Cleanup(func() {
		if f.term != nil {
			_ = f.term.stop()
		}
		_ = f.db.Close(context.Background())
	})
	_ = f.db.Close(context.Background())
	config, err := pgx.ParseConfig(f.uri)
	if err != nil {
		t.Fatal(err)
	}
	f.uri = strings.Replace(f.uri, "/"+config.Database, "/"+ascii, 1)
	f.config.Sources[0].URI = f.uri
	f.reconnect()
	f.exec("create table t(id text primary key, v int, big text)")
	f.exec(`insert into t values ('a', 1, 'good'), ('b', 2, E'\xff\xfe'), (E'\xc3\x28', 3, 'bad key')`)
	f.start()
	f.settled()
	query := `select 'all[]', id, '{"id":"'||id||'","v":'||v||',"big":"'||big||'"}' from t where id !~ '[^ -~]' and big ~ '^[ -~]*$'`
	f.follows("bucket:all", query)
	f.exec(`insert into t values ('c', 1, E'\xe2\x28'), (E'\xc0', 3, 'bad key'); update t set v = 5; delete from t where id = E'\xc3\x28'`)
	f.settled()
	f.follows("bucket:all", query)
	keys := map[string]bool{}
	for ref := range f.sidecar.Errors() {
		keys[ref.Key] = true
	}
	for _, key := range []string{"b", "c", "bytes:c0"} {
		if !keys[key] {
			t.Errorf("row %q is not listed: %v", key, keys)
		}
	}
	if len(keys) != 3 {
		t.Errorf("listed: %v", keys)
	}
	f.exec("update t set big = 'cured' where id = 'b'")
	f.settled()
	f.follows("bucket:all", query)
	f.exec(`insert into t values ('large', 1, repeat('x', 16 * 1024 * 1024))`)
	f.settled()
	if n := len(f.sidecar.Errors()); n != 3 {
		t.Errorf("%d rows are listed, want c, the bad key and the large one", n)
	}
}
