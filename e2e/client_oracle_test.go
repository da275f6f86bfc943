package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// rowSet is rows as JSON with sorted keys, by "type/id".
type rowSet map[string]string

// entitled asks the source what the demo's rules give a user: the lists they
// own or are a member of, with their to-dos and members.
const entitled = `
WITH mine AS (SELECT id FROM lists WHERE owner_id = $1 UNION SELECT list_id FROM list_members WHERE user_id = $1)
SELECT 'lists/' || id, jsonb_build_object('id', id, 'name', name, 'owner_id', owner_id, 'created_at', pg_temp.stamp(created_at))
FROM lists WHERE id IN (SELECT id FROM mine)
UNION ALL
SELECT 'todos/' || id, jsonb_build_object('id', id, 'list_id', list_id, 'title', title, 'completed', completed::int,
  'created_by', created_by, 'created_at', pg_temp.stamp(created_at), 'completed_at', pg_temp.stamp(completed_at))
FROM todos WHERE list_id IN (SELECT id FROM mine)
UNION ALL
SELECT 'list_members/' || list_id || '.' || user_id,
  jsonb_build_object('id', list_id || '.' || user_id, 'list_id', list_id, 'user_id', user_id)
FROM list_members WHERE list_id IN (SELECT id FROM mine)`

const stamp = `CREATE OR REPLACE FUNCTION pg_temp.stamp(timestamptz) RETURNS text LANGUAGE sql
	AS $$ SELECT to_char($1 AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $$`

// shownRows is what a device shows, in the same form.
const shownRows = `
SELECT 'lists/' || id AS key, json_object('id', id, 'name', name, 'owner_id', owner_id, 'created_at', created_at) AS data FROM lists
UNION ALL
SELECT 'todos/' || id, json_object('id', id, 'list_id', list_id, 'title', title, 'completed', completed,
  'created_by', created_by, 'created_at', created_at, 'completed_at', completed_at) FROM todos
UNION ALL
SELECT 'list_members/' || id, json_object('id', id, 'list_id', list_id, 'user_id', user_id) FROM list_members`

// entitledTo asks the source, in one statement, what a user should have.
func entitledTo(ctx context.Context, sourceURI, user string) (rowSet, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := connectAs(ctx, sourceURI, "e2e-oracle")
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, stamp); err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, entitled, user)
	if err != nil {
		return nil, err
	}
	out := rowSet{}
	var key, data string
	_, err = pgx.ForEachRow(rows, []any{&key, &data}, func() error {
		if _, twice := out[key]; twice {
			return fmt.Errorf("the oracle gives %s twice", key)
		}
		out[key] = canonical(data)
		return nil
	})
	return out, err
}

// mustBeEntitledTo is entitledTo for a source that is there.
func mustBeEntitledTo(t testing.TB, sourceURI, user string) rowSet {
	t.Helper()
	rows, err := entitledTo(t.Context(), sourceURI, user)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) == 0 {
		t.Fatalf("the source gives %s nothing", user)
	}
	return rows
}

// canonical is JSON with sorted keys; a text that is none stays as it is.
func canonical(data string) string {
	var v map[string]any
	if err := json.Unmarshal([]byte(data), &v); err != nil {
		return data
	}
	b, err := json.Marshal(v)
	if err != nil {
		return data
	}
	return string(b)
}

// mustEqual tells the first differences between what is and what should be.
func (got rowSet) mustEqual(want rowSet) error {
	if maps.Equal(got, want) {
		return nil
	}
	var missing, extra, other int
	var text string
	show := func(format string, args ...any) {
		if missing+extra+other <= 5 {
			text += "\n  " + fmt.Sprintf(format, args...)
		}
	}
	for key, w := range want {
		switch g, ok := got[key]; {
		case !ok:
			missing++
			show("missing %s %s", key, w)
		case g != w:
			other++
			show("%s is %s, should be %s", key, g, w)
		}
	}
	for key, g := range got {
		if _, ok := want[key]; !ok {
			extra++
			show("too much: %s %s", key, g)
		}
	}
	return fmt.Errorf("%d rows, want %d: %d missing, %d too many, %d others differ%s", len(got), len(want), missing, extra, other, text)
}
