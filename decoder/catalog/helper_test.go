package catalog_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/internal/pgtest"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// database is a fresh database with a superuser's connection.
type database struct {
	t    testing.TB
	uri  string
	conn *pgx.Conn
	name string // usable as a slot name
}

func newDatabase(t testing.TB, uri string, setup ...string) *database {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, uri: uri, name: strings.TrimPrefix(u.Path, "/")}
	d.conn = d.connect()
	d.exec(setup...)
	return d
}

func (d *database) connect() *pgx.Conn {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.uri)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (d *database) exec(sql ...string) {
	d.t.Helper()
	for _, q := range sql {
		if _, err := d.conn.Exec(d.t.Context(), q); err != nil {
			d.t.Fatalf("%s: %v", q, err)
		}
	}
}

func (d *database) text(sql string, args ...any) string {
	d.t.Helper()
	var v string
	if err := d.conn.QueryRow(d.t.Context(), sql, args...).Scan(&v); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// role makes a role for this test and gives the URI with it.
func (d *database) role(attributes string) (name, uri string) {
	d.t.Helper()
	name = "r_" + d.name
	d.exec("CREATE ROLE " + name + " LOGIN PASSWORD 's3cret' " + attributes)
	d.t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), d.uri)
		if err != nil {
			d.t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(context.Background(), "DROP OWNED BY "+name+" CASCADE; DROP ROLE "+name); err != nil {
			d.t.Error(err)
		}
	})
	u, err := url.Parse(d.uri)
	if err != nil {
		d.t.Fatal(err)
	}
	u.User = url.UserPassword(name, "s3cret")
	return name, u.String()
}

func (d *database) source(change ...func(*catalog.Config)) *catalog.Source {
	d.t.Helper()
	c := catalog.Config{URI: d.uri, Slot: d.name, Publication: "p"}
	for _, f := range change {
		f(&c)
	}
	s, err := catalog.Connect(d.t.Context(), c)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(s.Close)
	return s
}

func as(uri string) func(*catalog.Config) { return func(c *catalog.Config) { c.URI = uri } }

func all(string, string) bool { return true }

func (d *database) tables(s *catalog.Source, match catalog.Match) []catalog.Table {
	d.t.Helper()
	tables, err := s.Tables(d.t.Context(), match, s.Types())
	if err != nil {
		d.t.Fatal(err)
	}
	return tables
}

func table(t testing.TB, tables []catalog.Table, name string) *catalog.Table {
	t.Helper()
	i := slices.IndexFunc(tables, func(x catalog.Table) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("no table %s", name)
	}
	return &tables[i]
}

// codes gives "code level object" of findings, sorted.
func codes(list []catalog.Finding) string {
	var out []string
	for _, f := range list {
		out = append(out, fmt.Sprintf("%s %s %s", f.Code, f.Level, f.Object))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func finding(t testing.TB, list []catalog.Finding, code string) catalog.Finding {
	t.Helper()
	for _, f := range list {
		if f.Code == code {
			return f
		}
	}
	t.Fatalf("no %s in %s", code, codes(list))
	return catalog.Finding{}
}
