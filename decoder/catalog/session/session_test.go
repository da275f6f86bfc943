package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"
)

func TestConfig(t *testing.T) {
	c, err := Config("postgres://u:p@h/d?timezone=Asia/Tokyo&application_name=mine", Replication)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range Settings(Replication) {
		if c.RuntimeParams[name] != want {
			t.Errorf("%s is %q, want %q", name, c.RuntimeParams[name], want)
		}
	}
	if _, old := c.RuntimeParams["timezone"]; old {
		t.Error("a setting is given twice")
	}
	if c.ConnectTimeout != connectTimeout {
		t.Errorf("timeout %v", c.ConnectTimeout)
	}
	if c, err := Config("postgres://h/d?connect_timeout=3", ReadOnly); err != nil || c.ConnectTimeout.Seconds() != 3 ||
		c.RuntimeParams["default_transaction_read_only"] != "on" || c.RuntimeParams["replication"] != "" {
		t.Errorf("%+v %v", c, err)
	}
	for _, uri := range []string{"postgres://u:s3cret@h:port/d", "postgres://u:s3/cret@h/d", "password=s3cret port=x"} {
		if _, err := Config(uri, Plain); !errors.Is(err, ErrURI) || strings.Contains(err.Error(), "s3") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestExplain(t *testing.T) {
	c, err := Config("postgres://someone:s3cret@h:1/d", Plain)
	if err != nil {
		t.Fatal(err)
	}
	for code, want := range map[string]Cause{
		"28P01": Authentication, "28000": Authentication, "3D000": NoDatabase, "57P03": Unreachable, "53300": Refused, "42501": Refused, "08P01": Refused,
	} {
		err := Explain(c, fmt.Errorf("connect: %w", &pgconn.PgError{Code: code, Message: "no"}))
		var connect *ConnectError
		if !errors.As(err, &connect) || connect.Cause != want || connect.Host != "h:1" || connect.User != "someone" ||
			strings.Contains(err.Error(), "s3cret") || !strings.HasPrefix(err.Error(), map[bool]string{true: "MR1005", false: "MR1001"}[code == "42501"]+`: connect to source h:1 as someone, database d: `) {
			t.Errorf("%s: %v", code, err)
		}
	}
	if err := Explain(c, context.Canceled); !errors.Is(err, context.Canceled) || Explain(c, nil) != nil {
		t.Errorf("got %v", err)
	}
}

// A quoted literal ends where it began, whatever is in it.
func TestQuoting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[a'\\"]{0,8}`).Draw(t, "text")
		quoted := strings.TrimPrefix(Literal(s), " E")
		body := quoted[1 : len(quoted)-1]
		if strings.HasPrefix(Literal(s), " E") {
			body = strings.ReplaceAll(body, `\\`, `\`)
		}
		if strings.ReplaceAll(body, "''", "'") != s {
			t.Fatalf("%q became %s", s, Literal(s))
		}
		ident := Ident(s)
		if plain := strings.Trim(s, "a") == "" && s != ""; plain && ident != s ||
			!plain && strings.ReplaceAll(ident[1:len(ident)-1], `""`, `"`) != s {
			t.Fatalf("%q became %s", s, ident)
		}
	})
}

func TestIdent(t *testing.T) {
	for name, want := range map[string]string{
		"todos": "todos", "_x9": "_x9", "Todos": `"Todos"`, "9x": `"9x"`, "a b": `"a b"`, "": `""`, "übung": `"übung"`,
		"user": `"user"`, "order": `"order"`, "a$": `"a$"`, `a"b`: `"a""b"`,
	} {
		if got := Ident(name); got != want {
			t.Errorf("%q became %s, want %s", name, got, want)
		}
	}
}
