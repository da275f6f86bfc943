package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/catalog/session"
	"github.com/millrace/millrace/internal/pgtest"
)

func preflight(t testing.TB, s *catalog.Source, wanted ...catalog.TableName) ([]catalog.Finding, []catalog.Table) {
	t.Helper()
	list, tables, err := s.Preflight(t.Context(), all, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return list, tables
}

func TestPreflightOfAGoodSource(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
	list, tables := preflight(t, d.source(), catalog.TableName{Schema: "public", Name: "t"})
	if len(list) != 0 || len(tables) != 1 || catalog.Worst(list) != nil {
		t.Errorf("%v, %d tables", list, len(tables))
	}
	list, _ = preflight(t, d.source(), catalog.TableName{Schema: "public", Name: "missing"})
	if got := codes(list); got != "MR1013 warn public.missing" || catalog.Worst(list) != nil {
		t.Errorf("%s", got)
	}
}

// RA-01, RA-02: the server's settings.
func TestRA01_RA02_PreflightOfTheServer(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{Settings: map[string]string{"wal_level": "replica", "max_replication_slots": "1", "max_wal_senders": "1"}})
	d := newDatabase(t, server.Database(t), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t",
		"SELECT pg_create_physical_replication_slot('standby_a')")
	list, _ := preflight(t, d.source())
	if got := codes(list); got != "MR1003 fatal wal_level; MR1004 fatal max_replication_slots; MR1004 warn max_wal_senders" {
		t.Errorf("%s", got)
	}
	if f := finding(t, list, "MR1003"); !strings.Contains(f.Repair, "ALTER SYSTEM SET wal_level = logical;") || !strings.Contains(catalog.Worst(list).Error(), f.Repair) {
		t.Errorf("%v", f)
	}
	if f := finding(t, list, "MR1004"); !strings.Contains(f.Message, "standby_a") {
		t.Errorf("%v", f)
	}
}

// RA-03: roles that lack rights.
func TestRA03_PreflightOfTheRole(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), `
		CREATE TABLE mine (id int PRIMARY KEY);
		CREATE TABLE closed (id int PRIMARY KEY, v text);
		CREATE TABLE half (id int PRIMARY KEY, secret text);
		CREATE TABLE guarded (id int PRIMARY KEY);
		ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
		CREATE SCHEMA hidden;
		CREATE TABLE hidden.t (id int PRIMARY KEY);
		CREATE PUBLICATION p FOR ALL TABLES`)
	role, uri := d.role("")
	d.exec("GRANT SELECT ON mine, guarded, hidden.t TO "+role, "GRANT SELECT (id) ON half TO "+role)
	s := d.source(as(uri))
	list, tables := preflight(t, s)
	if got := codes(list); got != "MR1005 fatal "+role+"; MR1015 fatal-table hidden.t; MR1015 fatal-table public.closed; "+
		"MR1015 fatal-table public.half; MR1016 fatal-table public.guarded" {
		t.Errorf("%s", got)
	}
	if !table(t, tables, "mine").Usable() || table(t, tables, "closed").Usable() {
		t.Error("usable is wrong")
	}
	for code, repair := range map[string]string{
		"MR1005": "ALTER ROLE " + role + " REPLICATION;",
		"MR1016": "ALTER ROLE " + role + " BYPASSRLS;",
	} {
		if f := finding(t, list, code); f.Repair != repair {
			t.Errorf("%v", f)
		}
	}
	// Every repair cures.
	for _, f := range list {
		d.exec(f.Repair)
	}
	if list, _ = preflight(t, s); len(list) != 0 {
		t.Errorf("after the repairs: %s", codes(list))
	}
}

// RA-04, RA-05: publications.
func TestRA04_RA05_PreflightOfThePublication(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE t (id int PRIMARY KEY)", `CREATE TABLE "Odd ""x" (id int PRIMARY KEY)`)
	s := d.source()
	list, _ := preflight(t, s)
	f := finding(t, list, "MR1010")
	if codes(list) != "MR1010 fatal publication p" || f.Repair != `CREATE PUBLICATION p FOR TABLE public."Odd ""x", public.t;` {
		t.Errorf("%v", list)
	}
	d.exec(f.Repair)
	if list, _ = preflight(t, s); len(list) != 0 {
		t.Errorf("after the repair: %v", list)
	}
	d.exec("DROP PUBLICATION p", "CREATE PUBLICATION p FOR TABLE t WITH (publish = 'insert', publish_via_partition_root)")
	list, _ = preflight(t, s)
	if got := codes(list); got != `MR1011 fatal publication p; MR1012 fatal publication p; MR1014 fatal-table public.Odd "x` {
		t.Errorf("%s", got)
	}
	for _, f := range list {
		d.exec(f.Repair)
	}
	if list, _ = preflight(t, s); len(list) != 0 {
		t.Errorf("after the repairs: %v", list)
	}
}

func TestEnsurePublication(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t), "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
	a, b, c := catalog.TableName{Schema: "public", Name: "a"}, catalog.TableName{Schema: "public", Name: "b"}, catalog.TableName{Schema: "public", Name: "c"}
	role, uri := d.role("REPLICATION")
	s := d.source(as(uri))

	// It may not create: the error is the SQL.
	_, err := s.EnsurePublication(t.Context(), []catalog.TableName{a})
	var failed *catalog.PublicationError
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), `CREATE PUBLICATION p FOR TABLE public.a;`) || strings.Contains(err.Error(), "s3cret") {
		t.Fatalf("got %v", err)
	}

	// It may create, for tables it owns.
	d.exec("GRANT CREATE ON DATABASE "+d.name+" TO "+role, "ALTER TABLE a OWNER TO "+role)
	done, err := s.EnsurePublication(t.Context(), []catalog.TableName{a})
	if err != nil || !done.Created {
		t.Fatalf("%+v %v", done, err)
	}
	done, err = s.EnsurePublication(t.Context(), []catalog.TableName{a})
	if err != nil || done.Created || len(done.Added) != 0 {
		t.Errorf("again: %+v %v", done, err)
	}

	// Of two tables one is not its own: the other is added all the same.
	d.exec("CREATE TABLE c (id int PRIMARY KEY)", "ALTER TABLE c OWNER TO "+role)
	done, err = s.EnsurePublication(t.Context(), []catalog.TableName{b, c})
	if !errors.As(err, &failed) || len(done.Added) != 1 || done.Added[0] != c || len(failed.Missing) != 1 || failed.Missing[0] != b {
		t.Fatalf("%+v %v", done, err)
	}
	if len(failed.SQL) != 1 || failed.SQL[0] != `ALTER PUBLICATION p ADD TABLE public.b;` || !strings.Contains(err.Error(), "must be owner") {
		t.Errorf("%v", err)
	}
	tables := d.tables(s, all)
	if names := catalog.Publishable(tables); len(names) != 1 || names[0] != b {
		t.Errorf("publishable: %v", names)
	}
	d.exec("ALTER TABLE b OWNER TO "+role, "DROP PUBLICATION p", "CREATE PUBLICATION p FOR ALL TABLES")
	if done, err = s.EnsurePublication(t.Context(), []catalog.TableName{a, b, c}); err != nil || len(done.Added) != 0 {
		t.Errorf("for all tables: %+v %v", done, err)
	}
}

// MR1001: what a person reads when no connection can be had.
func TestConnectErrors(t *testing.T) {
	server := pgtest.New(t, pgtest.Options{})
	uri := server.Database(t)
	d := newDatabase(t, uri, "CREATE ROLE someone LOGIN PASSWORD 'right'", "CREATE ROLE norepl LOGIN PASSWORD 'wr0ng/pw'")
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	hba := filepath.Join(server.DataDir(), "pg_hba.conf")
	old, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("host all someone all scram-sha-256\nhost all banned all reject\n"), old...), 0o600); err != nil {
		t.Fatal(err)
	}
	d.exec("SELECT pg_reload_conf()")
	with := func(change func(*url.URL)) string {
		v := *u
		change(&v)
		return v.String()
	}
	for name, test := range map[string]struct {
		uri   string
		cause session.Cause
		text  string
	}{
		"nobody listens": {with(func(v *url.URL) { v.Host = "127.0.0.1:1" }), session.Unreachable, "no server answers there"},
		"no such host":   {with(func(v *url.URL) { v.Host = "nosuchhost.invalid:5432" }), session.Unreachable, "does not resolve"},
		"bad password":   {with(func(v *url.URL) { v.User = url.UserPassword("someone", "wr0ng/pw") }), session.Authentication, "the password is wrong"},
		"rejected":       {with(func(v *url.URL) { v.User = url.UserPassword("banned", "wr0ng/pw") }), session.Authentication, "pg_hba.conf"},
		"no database":    {with(func(v *url.URL) { v.Path = "/nosuch" }), session.NoDatabase, "does not exist"},
		"no TLS":         {with(func(v *url.URL) { v.RawQuery = "sslmode=require" }), session.Encryption, "TLS could not be agreed"},
	} {
		pgtest.Eventually(t, patience, func() error { // until the server has read pg_hba.conf
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			s, err := catalog.Connect(ctx, catalog.Config{URI: test.uri})
			if err == nil {
				s.Close()
			}
			var connect *session.ConnectError
			if !errors.As(err, &connect) || connect.Cause != test.cause || !strings.Contains(err.Error(), test.text) ||
				strings.Contains(err.Error(), "wr0ng") || strings.Contains(err.Error(), "\n") {
				return fmt.Errorf("%s: got %w", name, err)
			}
			return nil
		})
	}
	_, err = catalog.Connect(t.Context(), catalog.Config{URI: "postgres://someone:wr0ng/pw@127.0.0.1/x"})
	if !errors.Is(err, session.ErrURI) || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("bad URI: %v", err)
	}
	s := d.source(as(with(func(v *url.URL) { v.User = url.UserPassword("norepl", "wr0ng/pw") })))
	_, err = s.CreateSlot(t.Context(), "norepl", nil)
	if err == nil || !strings.Contains(err.Error(), `ALTER ROLE norepl REPLICATION;`) || strings.Contains(err.Error(), "wr0ng") {
		t.Errorf("slot without the right: %v", err)
	}
}

// RA-06, P13: defaults of the role do not reach us.
func TestRA06_RoleDefaultsDoNotLeak(t *testing.T) {
	d := newDatabase(t, pgtest.Shared(t).Database(t),
		"CREATE TABLE t (id int PRIMARY KEY, at timestamptz, b bytea, f float8, i interval)",
		`INSERT INTO t VALUES (1, '2024-01-02 03:04:05+00', '\x01ff', 0.1::float8 + 0.2::float8, '1 day 2 hours')`,
		"CREATE PUBLICATION p FOR TABLE t")
	role, uri := d.role("REPLICATION")
	for _, set := range []string{"TimeZone = 'Asia/Tokyo'", "DateStyle = 'German'", "bytea_output = 'escape'", "extra_float_digits = -3", "IntervalStyle = 'iso_8601'"} {
		d.exec("ALTER ROLE " + role + " SET " + set)
	}
	d.exec("GRANT SELECT ON t TO " + role)
	s := d.source(as(uri))
	got := readAll(t, s, table(t, d.tables(s, all), "t"))
	if len(got) != 1 || got[0] != `1|2024-01-02 03:04:05+00|\x01ff|0.30000000000000004|1 day 02:00:00` {
		t.Errorf("%q", got)
	}
}
