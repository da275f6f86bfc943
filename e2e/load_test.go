package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// loader is a seeded stream of transactions against the tables of
// testdata/load.sql. It keeps no model of what the tables should hold: the
// oracle asks the source.
type loader struct {
	uri     string
	writers int
	seed    uint64

	stop      chan struct{}
	wg        sync.WaitGroup
	committed atomic.Int64

	mu  sync.Mutex
	err error
}

// startLoad starts writers that commit transactions until Stop. Statements
// that a concurrent writer or a constraint refuses end their transaction; lost
// connections are made again.
func startLoad(uri string, writers int, seed uint64) *loader {
	l := &loader{uri: uri, writers: writers, seed: seed, stop: make(chan struct{})}
	for i := range writers {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.write(i)
		}()
	}
	return l
}

// Stop lets each writer end its transaction, waits for them, and says how many
// transactions were committed.
func (l *loader) Stop() (int64, error) {
	close(l.stop)
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.committed.Load(), l.err
}

// progress is nil once n transactions have been committed.
func (l *loader) progress(n int64) error {
	if got := l.committed.Load(); got < n {
		return fmt.Errorf("%d of %d transactions committed", got, n)
	}
	return nil
}

func (l *loader) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

func (l *loader) write(writer int) {
	g := &generator{Rand: rand.New(rand.NewPCG(l.seed, uint64(writer)))}
	ctx := context.Background()
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			conn.Close(ctx)
		}
	}()
	for !l.stopped() {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = connectAs(ctx, l.uri, "e2e-load"); err != nil {
				conn = nil
				select { // the server may be restarting
				case <-l.stop:
				case <-time.After(50 * time.Millisecond):
				}
				continue
			}
		}
		err := execAll(ctx, conn, g.transaction(fmt.Sprintf("w%d", writer)))
		switch {
		case err == nil:
			l.committed.Add(1)
		case expectedUnderLoad(err):
			if !conn.IsClosed() {
				_, _ = conn.Exec(ctx, "ROLLBACK") // a no-op warning if none is open
			}
		default:
			l.mu.Lock()
			l.err = errors.Join(l.err, err)
			l.mu.Unlock()
			return
		}
	}
}

// expectedUnderLoad tells errors that concurrent writers cause each other, and
// those of a server that goes away, from mistakes in the generator.
func expectedUnderLoad(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return true // the connection broke
	}
	switch pg.Code {
	case "23505", // unique violation
		"40P01",                            // deadlock
		"57P01", "57P02", "57P03", "08006", // server going away
		"55P03", "57014": // lock timeout, statement timeout
		return true
	}
	return false
}

// execAll sends the statements one by one.
func execAll(ctx context.Context, conn *pgx.Conn, statements []string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			return fmt.Errorf("%.200s: %w", s, err)
		}
	}
	return nil
}

// generator makes SQL text from a seed.
type generator struct{ *rand.Rand }

func (g *generator) oneOf(s ...string) string { return s[g.IntN(len(s))] }

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func (g *generator) owner() string {
	if g.IntN(10) == 0 {
		return "NULL"
	}
	return quote(fmt.Sprintf("o%d", 1+g.IntN(12)))
}

func (g *generator) team() string {
	if g.IntN(12) == 0 {
		return "NULL"
	}
	return quote(fmt.Sprintf("t%d", 1+g.IntN(5)))
}

func (g *generator) item() int { return 1 + g.IntN(300) }

// text is a short value, often with characters that JSON or SQL may trip over.
func (g *generator) text() string {
	return g.oneOf("NULL", "''", quote("plain"), quote(`quo"te \ back`), quote("it's"), quote("tab\tnl\nbell\x07"),
		quote("ünï čödé"), quote("\u2028\u2029<&>"), quote("😀"), quote(fmt.Sprintf("v%d", g.IntN(1e6))))
}

// long is often stored out of line, sometimes short, so that rows gain and
// lose external values.
func (g *generator) long() string {
	switch g.IntN(5) {
	case 0:
		return g.text()
	case 1:
		return "repeat(md5(random()::text), 62)" // just below the threshold
	default:
		return fmt.Sprintf("repeat(md5(random()::text), %d)", 70+g.IntN(250))
	}
}

// transaction is one transaction with its BEGIN and end.
func (g *generator) transaction(writer string) []string {
	switch g.IntN(20) {
	case 0:
		return []string{g.statement()} // autocommit
	case 1: // two-phase
		gid := fmt.Sprintf("e2e-%s-%d", writer, g.Uint64())
		tx := append([]string{"BEGIN"}, g.statements(1+g.IntN(4))...)
		end := g.oneOf("COMMIT PREPARED ", "COMMIT PREPARED ", "ROLLBACK PREPARED ")
		return append(tx, "PREPARE TRANSACTION "+quote(gid), end+quote(gid))
	}
	tx := []string{"BEGIN"}
	tx = append(tx, g.statements(1+g.IntN(6))...)
	if g.IntN(4) == 0 { // savepoints: nested, released, rolled back
		tx = append(tx, "SAVEPOINT a")
		tx = append(tx, g.statements(1+g.IntN(3))...)
		tx = append(tx, "SAVEPOINT b")
		tx = append(tx, g.statements(1+g.IntN(3))...)
		tx = append(tx, g.oneOf("ROLLBACK TO b", "RELEASE b", "ROLLBACK TO a"))
		tx = append(tx, g.statements(g.IntN(2))...)
	}
	return append(tx, g.oneOf("COMMIT", "COMMIT", "COMMIT", "COMMIT", "COMMIT", "COMMIT", "COMMIT", "ROLLBACK"))
}

func (g *generator) statements(n int) []string {
	out := make([]string, 0, n)
	for range n {
		if g.IntN(12) == 0 {
			out = append(out, g.several()...)
			continue
		}
		out = append(out, g.statement())
	}
	return out
}

// several gives changes that need more than one statement.
func (g *generator) several() []string {
	a, b := g.item(), g.item()
	switch g.IntN(4) {
	case 0: // swap two keys
		return []string{
			fmt.Sprintf("UPDATE items SET id = -%d WHERE id = %d", a, a),
			fmt.Sprintf("UPDATE items SET id = %d WHERE id = %d", a, b),
			fmt.Sprintf("UPDATE items SET id = %d WHERE id = -%d", b, a),
		}
	case 1: // a row that lives only inside the transaction
		return []string{
			fmt.Sprintf("INSERT INTO items VALUES (%d, %s, 'a', 1, %s, %s, 1, true) ON CONFLICT DO NOTHING", a, g.owner(), g.text(), g.long()),
			fmt.Sprintf("UPDATE items SET n = n + 1 WHERE id = %d", a),
			fmt.Sprintf("DELETE FROM items WHERE id = %d", a),
		}
	case 2: // truncate and fill again
		return []string{
			g.oneOf("TRUNCATE events", "TRUNCATE events", "TRUNCATE events, notes"),
			fmt.Sprintf("INSERT INTO events SELECT gen_random_uuid(), %s, g FROM generate_series(1, %d) g", g.owner(), 1+g.IntN(50)),
		}
	default: // money moves, the sum stays
		n := g.IntN(100)
		return []string{
			fmt.Sprintf("UPDATE accounts SET balance = balance - %d WHERE id = %d", n, 1+g.IntN(10)),
			fmt.Sprintf("UPDATE accounts SET balance = balance + %d WHERE id = %d", n, 11+g.IntN(10)),
		}
	}
}

func (g *generator) statement() string {
	id := g.item()
	switch g.IntN(29) {
	case 27:
		return fmt.Sprintf(`INSERT INTO typed VALUES (%d, %s, %s, %s, %s, %s, %s, %s, '\\x00ff41')
			ON CONFLICT (id) DO UPDATE SET f = excluded.f, span = excluded.span, at = excluded.at + interval '1.5 s'`,
			g.IntN(40),
			g.oneOf("NULL", "'2024-02-29 13:45:10.1+05:45'", "'1999-12-31 23:59:59.999999Z'", "'0044-03-15 12:00Z'"),
			g.oneOf("NULL", "date '2024-02-29'", "date '1970-01-01'"),
			g.oneOf("NULL", "0.1", "-2.5", "3", "1.0000000000000002", "123456.789"),
			g.oneOf("NULL", "'{}'", `ARRAY['a', 'b "c"', NULL, '', 'null', 'x,y']`),
			g.oneOf("NULL", `'{"b": [1, 2.50, null], "a": "ü"}'`, `'"text"'`, "'null'"),
			g.oneOf("NULL", "'glad'", `'sad "!"'`),
			g.oneOf("NULL", "'1 day 02:03:04.5'", "'-1 mon'", "'0'"))
	case 0, 1, 2:
		return fmt.Sprintf(`INSERT INTO items VALUES (%d, %s, %s, %d, %s, %s, %d.%02d, %s)
			ON CONFLICT (id) DO UPDATE SET title = excluded.title, n = items.n + 1`,
			id, g.owner(), g.oneOf("'a'", "'b'", "'hidden'"), g.IntN(100), g.text(), g.long(), g.IntN(1000), g.IntN(100), g.oneOf("true", "false", "NULL"))
	case 3:
		return fmt.Sprintf(`INSERT INTO items SELECT g, 'o' || 1 + g %% 12, 'b', g, 'bulk ' || g, CASE WHEN g %% 3 = 0 THEN %s END, g / 3.0, g %% 2 = 0
			FROM generate_series(%d, %d) g ON CONFLICT DO NOTHING`, g.long(), 300+g.IntN(100), 400+g.IntN(200))
	case 4, 5: // the long value does not change
		return fmt.Sprintf("UPDATE items SET n = %d, title = %s WHERE id = %d", g.IntN(100), g.text(), id)
	case 6:
		return fmt.Sprintf("UPDATE items SET big = %s WHERE id = %d", g.long(), id)
	case 7, 8: // to another bucket, or out of all
		return fmt.Sprintf("UPDATE items SET owner = %s WHERE id BETWEEN %d AND %d", g.owner(), id, id+g.IntN(4))
	case 9:
		return fmt.Sprintf("UPDATE items SET kind = %s, flag = NOT flag WHERE id BETWEEN %d AND %d", g.oneOf("'a'", "'b'", "'hidden'"), id, id+g.IntN(5))
	case 10: // another key, the long value unchanged
		return fmt.Sprintf("UPDATE items SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM items WHERE id = %[1]d)", g.item(), id)
	case 11:
		return fmt.Sprintf("DELETE FROM items WHERE id BETWEEN %d AND %d", id, id+g.IntN(10))
	case 12:
		return fmt.Sprintf("UPDATE items SET n = n + 1 WHERE id %% %d = 0", 3+g.IntN(20))
	case 13, 14:
		return fmt.Sprintf(`INSERT INTO docs VALUES (%d, %s, %s, %s) ON CONFLICT (name, part) DO UPDATE SET team = excluded.team`,
			g.IntN(5), quote(g.docName()), g.team(), g.long())
	case 15:
		return fmt.Sprintf("UPDATE docs SET team = %s WHERE name = %s", g.team(), quote(g.docName()))
	case 16:
		return fmt.Sprintf("UPDATE docs SET name = %s WHERE name = %s AND part = %d", quote(g.docName()), quote(g.docName()), g.IntN(5))
	case 17:
		return fmt.Sprintf("DELETE FROM docs WHERE name = %s AND part > %d", quote(g.docName()), g.IntN(5))
	case 18, 19:
		return fmt.Sprintf("INSERT INTO notes VALUES (%d, %s, %s) ON CONFLICT (id) DO UPDATE SET owner = excluded.owner",
			g.IntN(60), g.owner(), g.long())
	case 20:
		return fmt.Sprintf("UPDATE notes SET id = %d WHERE id = %d", g.IntN(60), g.IntN(60))
	case 21:
		return fmt.Sprintf("DELETE FROM notes WHERE id = %d", g.IntN(60))
	case 22:
		return fmt.Sprintf("INSERT INTO tagged VALUES (%s, %s, %d, %s) ON CONFLICT (code) DO UPDATE SET n = excluded.n",
			quote(fmt.Sprintf("c%d", g.IntN(80))), g.owner(), g.IntN(100), g.long())
	case 23:
		return fmt.Sprintf("UPDATE tagged SET code = %s, owner = %s WHERE code = %s",
			quote(fmt.Sprintf("c%d", g.IntN(80))), g.owner(), quote(fmt.Sprintf("c%d", g.IntN(80))))
	case 24:
		return fmt.Sprintf("DELETE FROM tagged WHERE code = %s", quote(fmt.Sprintf("c%d", g.IntN(80))))
	case 25:
		return g.oneOf(
			fmt.Sprintf("INSERT INTO events SELECT gen_random_uuid(), %s, g FROM generate_series(1, %d) g", g.owner(), 1+g.IntN(100)),
			fmt.Sprintf("UPDATE events SET owner = %s WHERE n = %d", g.owner(), 1+g.IntN(50)),
			fmt.Sprintf("DELETE FROM events WHERE n = %d", 1+g.IntN(50)))
	case 26:
		return g.oneOf(
			fmt.Sprintf("INSERT INTO members VALUES ('t%d', 'o%d', %s) ON CONFLICT (team, owner) DO UPDATE SET role = excluded.role", 1+g.IntN(5), 1+g.IntN(12), g.text()),
			fmt.Sprintf("DELETE FROM members WHERE team = 't%d' AND owner = 'o%d'", 1+g.IntN(5), 1+g.IntN(12)),
			fmt.Sprintf("UPDATE owners SET region = 'r%d', active = NOT active WHERE id = 'o%d'", g.IntN(4), 1+g.IntN(12)),
			fmt.Sprintf("DELETE FROM owners WHERE id = 'o%d'", 1+g.IntN(12)),
			fmt.Sprintf("INSERT INTO owners VALUES ('o%d', 'r%d', true) ON CONFLICT DO NOTHING", 1+g.IntN(12), g.IntN(4)))
	default:
		return fmt.Sprintf("INSERT INTO unrelated VALUES (%d, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v", g.IntN(1000), g.text())
	}
}

func (g *generator) docName() string {
	return g.oneOf("alpha", "beta", `quo"ted`, "ünï", "a.b", "", "x'y", `back\slash`)
}

// bigTransaction is one transaction over rows rows of bulk: in turn truncating
// and filling the table, moving every row to another bucket, deleting most of
// them, and adding as many.
func bigTransaction(turn, rows int) []string {
	insert := fmt.Sprintf("INSERT INTO bulk SELECT gen_random_uuid(), 'o' || 1 + g %% 12, g FROM generate_series(1, %d) g", rows)
	switch turn % 4 {
	case 0:
		return []string{"BEGIN", "TRUNCATE bulk", insert, "COMMIT"}
	case 1:
		return []string{"BEGIN", "UPDATE bulk SET owner = 'o' || 1 + (n + 1) % 12", "COMMIT"}
	case 2:
		return []string{"BEGIN", "DELETE FROM bulk WHERE n % 100 <> 0", "COMMIT"}
	default:
		return []string{"BEGIN", insert, "COMMIT"}
	}
}

func connectAs(ctx context.Context, uri, name string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(uri)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = name
	cfg.RuntimeParams["lock_timeout"] = "20s"
	for setting, value := range map[string]string{ // the load's database has strange defaults
		"timezone": "UTC", "datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex",
		"default_transaction_isolation": "read committed",
	} {
		cfg.RuntimeParams[setting] = value
	}
	cfg.ConnectTimeout = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return pgx.ConnectConfig(ctx, cfg)
}
