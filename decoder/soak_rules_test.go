package decoder

import (
	"fmt"
	"strings"
)

// The rules of the soak come in variants, made of independent changes. Each
// definition of a variant has its query on a source, which gives bucket, row id
// and data.

// soakVariants is how many there are.
const soakVariants = 16

const (
	variantShard   = 1 << iota // rows of a tell their source
	variantNarrow              // rows of d without v
	variantWithout             // no definition of e
	variantFilter              // c has only some rows
)

// soakTables are beside those of the workload.
var soakTables = []string{
	"create table acct(id int primary key, balance int not null)",
	"insert into acct select g, 1000 from generate_series(1, 5) g",
	"create table team(id int primary key, owner text not null)",
	"insert into team select g, 'u' || g % 5 from generate_series(1, 12) g",
	"create table m(id int primary key, team int, note text)",
	"insert into m select g, 1 + g % 12, repeat(md5(g::text), case when g % 4 = 0 then 90 else 1 end) from generate_series(1, 150) g",
}

func soakRules(variant int) string {
	pick := func(bit int, yes, no string) string {
		if variant&bit != 0 {
			return yes
		}
		return no
	}
	return fmt.Sprintf("# variant %d\nbucket_definitions:\n", variant) +
		"  a:\n    data:\n      - SELECT id, v, big" + pick(variantShard, ", _source_name AS shard", "") + " FROM a\n" +
		"  b:\n    data:\n      - SELECT k || '.' || n AS id, v FROM b\n" +
		"  c:\n    data:\n      - SELECT id, v, big FROM c" + pick(variantFilter, " WHERE v > 40", "") + "\n" +
		"  d:\n    data:\n      - SELECT code AS id, " + pick(variantNarrow, "", "v, ") + "big FROM d\n" +
		pick(variantWithout, "", "  e:\n    data:\n      - SELECT id, v FROM e\n") +
		"  m:\n    parameters: SELECT id AS team FROM team WHERE owner = request.user_id()\n    data:\n      - SELECT id, note FROM m WHERE team = bucket.team\n" +
		"  acct:\n    data:\n      - SELECT id, balance FROM acct\n"
}

// variantOf is the variant that rules were made of.
func variantOf(content string) (variant int, err error) {
	_, err = fmt.Sscanf(content, "# variant %d\n", &variant)
	return variant, err
}

// soakQueries are the definitions of a variant by key, each as its query on a
// source.
func soakQueries(variant int, source string) map[string]string {
	queries := map[string]string{
		"bucket:b":    workloadQueries["b"],
		"bucket:a":    workloadQuery("a", "id"),
		"bucket:c":    workloadQuery("c", "id"),
		"bucket:d":    workloadQuery("d", "code"),
		"bucket:e":    workloadQueries["e"],
		"bucket:m":    `select 'm[' || team || ']', id::text, '{"id":' || id || ',"note":' || coalesce(to_json(note)::text, 'null') || '}' from m where team is not null`,
		"bucket:acct": `select 'acct[]', id::text, '{"id":' || id || ',"balance":' || balance || '}' from acct`,
	}
	if variant&variantShard != 0 {
		queries["bucket:a"] = strings.Replace(queries["bucket:a"], "||'}' from", fmt.Sprintf(`||',"shard":"%s"}' from`, source), 1)
	}
	if variant&variantNarrow != 0 {
		queries["bucket:d"] = strings.Replace(queries["bucket:d"], `||',"v":'||coalesce(v::text,'null')`, "", 1)
	}
	if variant&variantWithout != 0 {
		delete(queries, "bucket:e")
	}
	if variant&variantFilter != 0 {
		queries["bucket:c"] += " where v > 40"
	}
	return queries
}

// soakLookups are the lookups as key and outputs.
const soakLookups = `select '[' || to_json(owner) || ']', '[' || id || ']' from team`
