package decoder

import (
	"fmt"
	"testing"

	"github.com/millrace/millrace"
)

// P43: the key of a row without one must not change between releases, since
// what is synced is known by it. The values are the UUIDv5 of the bytes that the
// comment of contentKey describes, computed with Python's hashlib.
func TestContentKey(t *testing.T) {
	p := &tablePlan{keyless: true, columns: []planColumn{{name: "a", typeOID: 23}, {name: "b", typeOID: 25}},
		table: &tableState{saved: &millrace.SourceTable{Schema: "public", Name: "t"}}}
	for _, c := range []struct {
		cells []cell
		want  string
	}{
		{[]cell{{known: true, text: []byte("1")}, {known: true, text: []byte("x")}}, "b8d85d67-bc73-5301-b524-ea110d6c32e1"},
		{[]cell{{known: true, text: []byte("1")}, {known: true, null: true}}, "d4da4b8d-092a-5a97-a406-e9328e751233"},
		{[]cell{{known: true, text: []byte("1")}, {known: true, text: []byte("")}}, "e8fdcd99-4956-5a4f-bd4b-4a387c8eac22"},
	} {
		got, err := p.contentKey(c.cells)
		if err != nil || got != c.want {
			t.Errorf("%+v: %s, %v, want %s", c.cells, got, err, c.want)
		}
	}
	if _, err := p.contentKey(make([]cell, 2)); err == nil {
		t.Error("a row of which a value is not told has a key")
	}
}

// RA-17: tables without a key, under inserts while they are copied and with
// restarts: none missing, none twice.
func TestRA17_KeylessTable(t *testing.T) {
	for _, identity := range []string{"default", "nothing", "full"} {
		t.Run(identity, func(t *testing.T) {
			f := scenario(t, rulesFor("all", "SELECT id, v FROM t"),
				"create table t(id int, v text, big text)", "alter table t alter big set storage external", "alter table t replica identity "+identity,
				"insert into t select g, null, case when g%2=0 then repeat(md5(g::text), 90) end from generate_series(1, 500) g")
			for i := range 20 {
				f.exec(fmt.Sprintf("insert into t values (%d, 'v', repeat('x', 3000)), (%d, null, null)", 1000+i, 2000+i))
				if i%8 == 3 {
					_ = f.term.stop()
					f.start()
				}
			}
			f.settled()
			f.follows("bucket:all", rows("all", "t"))
			if identity == "full" { // RA-25, P45: rows swap their ids in one statement
				f.exec("update t set id = 3 - id where id in (1, 2); update t set v = 'w' where id < 50; delete from t where id between 60 and 70")
				f.settled()
				f.follows("bucket:all", rows("all", "t"))
			}
			f.exec("begin; truncate t; insert into t values (1, 'after', null); commit")
			f.settled()
			f.follows("bucket:all", rows("all", "t"))
			f.exec("alter table t add extra int; insert into t values (2, 'extra', null, 7)")
			f.follows("bucket:all", rows("all", "t"))
			f.exec("alter table t replica identity default; alter table t add primary key (id); update t set v = 'keyed' where id = 1")
			f.follows("bucket:all", rows("all", "t"))
		})
	}
}
