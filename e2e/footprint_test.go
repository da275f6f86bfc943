package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// footprint is everything a product could leave on a source: the objects of
// every catalog that lists any, and the settings kept in the database.
type footprint []string

const footprintQuery = `
SELECT 'class ' || n.nspname || '.' || c.relname || ' ' || c.relkind::text || ' identity ' || c.relreplident::text || ' acl ' || coalesce(c.relacl::text, '') || ' rls ' || c.relrowsecurity
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_(toast|temp)'
UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname || ' ' || atttypid::regtype || ' ' || attnotnull || ' ' || atthasdef
  FROM pg_attribute JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace WHERE attnum > 0 AND nspname = 'public'
UNION ALL SELECT 'namespace ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
UNION ALL SELECT 'function ' || oid::regprocedure FROM pg_proc
UNION ALL SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname FROM pg_trigger
UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger
UNION ALL SELECT 'type ' || n.nspname || '.' || t.typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname !~ '^pg_(toast|temp)'
UNION ALL SELECT 'extension ' || extname FROM pg_extension
UNION ALL SELECT 'constraint ' || conrelid::regclass || ' ' || conname FROM pg_constraint
UNION ALL SELECT 'rule ' || ev_class::regclass || ' ' || rulename FROM pg_rewrite
UNION ALL SELECT 'policy ' || polrelid::regclass || ' ' || polname FROM pg_policy
UNION ALL SELECT 'language ' || lanname FROM pg_language
UNION ALL SELECT 'foreign server ' || srvname FROM pg_foreign_server
UNION ALL SELECT 'subscription ' || subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())
UNION ALL SELECT 'publication ' || pubname FROM pg_publication
UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'role ' || rolname FROM pg_roles
UNION ALL SELECT 'setting ' || setdatabase || ' ' || setrole || ' ' || setconfig::text FROM pg_db_role_setting
UNION ALL SELECT 'default acl ' || defaclobjtype::text || ' ' || defaclacl::text FROM pg_default_acl
UNION ALL SELECT 'large object ' || oid FROM pg_largeobject_metadata
UNION ALL SELECT 'statistics ' || stxname FROM pg_statistic_ext
ORDER BY 1`

func readFootprint(t testing.TB, uri string) footprint {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := connectAs(ctx, uri, "e2e")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, footprintQuery)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// checkFootprint fails the test if the source holds anything of ours but the
// publication and the slot (I7), or lost something.
func (s *system) checkFootprint() {
	s.t.Helper()
	allowed := map[string]bool{"publication " + s.publication: true, "slot " + s.slot: true}
	var now footprint
	found := 0
	for _, object := range readFootprint(s.t, s.sourceURI) {
		if allowed[object] {
			found++
			continue
		}
		now = append(now, object)
	}
	if found != len(allowed) {
		s.t.Errorf("found %d of the publication and the slot on the source", found)
	}
	if diff := cmp.Diff(s.before, now); diff != "" {
		s.t.Errorf("the source's catalog changed (-before +now):\n%s", diff)
	}
}
