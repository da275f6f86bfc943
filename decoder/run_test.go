package decoder

import (
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

const todoRules = `
bucket_definitions:
  by_list:
    parameters: SELECT id AS list FROM lists WHERE owner = request.user_id()
    data:
      - SELECT id, list, title, done FROM todos WHERE list = bucket.list
`

const todoQuery = `select 'by_list["'||list||'"]', id, '{"id":'||to_json(id)::text||',"list":'||to_json(list)::text||',"title":'||coalesce(to_json(title)::text,'null')||',"done":'||case when done then 1 else 0 end||'}' from todos`

func todoFixture(t testing.TB) *fixture {
	return newFixture(t, pgtest.Shared(t), todoRules,
		"create table lists(id text primary key, owner text)",
		"create table todos(id text primary key, list text, title text, done boolean not null default false)",
		"insert into lists select 'l'||g, 'u'||g%3 from generate_series(1,5) g",
		"insert into todos select 't'||g, 'l'||g%5+1, 'title '||g from generate_series(1,500) g",
	)
}

func TestCopyThenStream(t *testing.T) {
	f := todoFixture(t)
	f.start()
	f.settled()
	f.contentEquals("bucket:by_list", todoQuery)
	f.exec("insert into todos values ('new', 'l1', 'milk')")
	f.exec("update todos set title = 'eggs' where id = 't3'")
	f.exec("update todos set list = 'l5' where id = 't4'")
	f.exec("delete from todos where id = 't5'")
	f.exec("update todos set id = 'moved' where id = 't6'")
	f.settled()
	f.contentEquals("bucket:by_list", todoQuery)
}

// TestSnapshotRate: a copy takes at least as long as its rate says, and what is
// written meanwhile is not lost.
func TestSnapshotRate(t *testing.T) {
	f := todoFixture(t)
	f.exec("insert into todos select 'w'||g, 'l1', repeat('x', 1000) from generate_series(1,1000) g")
	f.config.SnapshotRate = 500_000
	f.config.pages, f.config.fixedPages = 8, true
	begin := time.Now()
	f.start()
	f.exec("insert into todos values ('new', 'l1', 'milk')")
	f.settled()
	// The last chunk of each worker is paid for by nobody: 64 KiB of pages each.
	if least := time.Duration(1_000_000-2*64<<10) * time.Second / 500_000; time.Since(begin) < least {
		t.Errorf("1 MB at 500 kB/s took %v", time.Since(begin))
	}
	f.contentEquals("bucket:by_list", todoQuery)
}
