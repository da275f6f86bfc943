package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/relaytest"
)

// casesPerBatch is how many generated definitions share one rules file and so
// one run of the engine.
const casesPerBatch = 45

// readers sync in every batch. u3 has no org and an empty list of them.
var readers = []reader{
	newReader("u1", "o1", []string{"o2", "o3"}, 3, true, "a"),
	newReader("u2", "o4", []string{"o1"}, 1, false, "b"),
	newReader("u3", "", []string{}, 5, false, "zz"),
}

// What a client holds equals the rules' queries, run by hand on the source: for
// generated rules of both dialects and generated data, after the first copy and
// after every change (I6). The oracle is plain SQL, made beside the rules and not
// from them. E2E_RULES_CASES=225 definitions from E2E_RULES_SEED=1; each batch of
// 45 has a seed of its own.
func TestGeneratedRules(t *testing.T) {
	first, cases := envInt(t, "E2E_RULES_SEED", 1), envInt(t, "E2E_RULES_CASES", 5*casesPerBatch)
	began := time.Now()
	rows, compared := 0, 0
	for seed := first; cases > 0; seed++ {
		n := min(cases, casesPerBatch)
		cases -= n
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r, c := generatedBatch(t, seed, n)
			rows, compared = rows+r, compared+c
			if t.Failed() {
				t.Logf("repeat with E2E_RULES_SEED=%d E2E_RULES_CASES=%d", seed, n)
			}
		})
	}
	t.Logf("compared %d tables of clients, %d rows, in %v", compared, rows, time.Since(began).Round(time.Millisecond))
	if rows < compared {
		t.Errorf("the generated rules select next to nothing: %d rows in %d tables", rows, compared)
	}
}

// generated is a running system with generated rules and the clients of it.
type generated struct {
	t         *testing.T
	sourceURI string
	cases     []ruleCase
	clients   []*relaytest.Client
	marked    int
}

// generatedBatch runs one rules file and returns how many rows and tables were
// compared.
func generatedBatch(t *testing.T, seed, n int) (rows, compared int) {
	g := &ruleGenerator{r: rand.New(rand.NewPCG(uint64(seed), 1)), streams: seed%2 == 1}
	s := &generated{t: t}
	for i := range n {
		s.cases = append(s.cases, g.make(fmt.Sprintf("c%d", i)))
	}
	a := newApp(t, generatedSchema+g.fill(), g.rulesFile(s.cases), "")
	s.sourceURI = a.sourceURI
	for _, r := range readers {
		request := relaytest.Request("device-" + r.sub)
		for _, c := range s.cases {
			for _, sub := range subscriptions {
				if c.subscribed {
					request.Streams.Subscriptions = append(request.Streams.Subscriptions, protocol.Subscription{
						Stream: c.name, Parameters: json.RawMessage(sub.parameters), Priority: protocol.DefaultPriority})
				}
			}
		}
		request.Parameters = json.RawMessage(fmt.Sprintf(`{"region":%q}`, r.region))
		s.clients = append(s.clients, relaytest.Dial(t, a.url, a.token(r.sub, r.claims), request, nil))
	}
	for change := range 4 {
		if change > 0 {
			execSQL(t, s.sourceURI, g.change())
		}
		s.mark()
		for i, r := range readers {
			s.caughtUp(s.clients[i])
			rows += s.compare(r, s.clients[i])
			compared += len(s.cases)
		}
		if t.Failed() {
			break
		}
	}
	return rows, compared
}

// mark changes the row that every client gets last.
func (s *generated) mark() {
	s.t.Helper()
	s.marked++
	execSQL(s.t, s.sourceURI, fmt.Sprintf("INSERT INTO marks VALUES ('mark', %d) ON CONFLICT (id) DO UPDATE SET n = excluded.n", s.marked))
}

// caughtUp folds a client's lines up to a checkpoint that has the mark.
func (s *generated) caughtUp(c *relaytest.Client) {
	s.t.Helper()
	want := fmt.Sprintf(`{"id":"mark","n":%d}`, s.marked)
	deadline := time.After(waitTimeout)
	for {
		select {
		case l, ok := <-c.Lines:
			if !ok {
				s.t.Fatalf("the stream ended: %v", c.Err)
			}
			c.Fold(l)
			if _, complete := l.(protocol.CheckpointComplete); complete && c.Table("marks")["mark"] == want {
				return
			}
		case <-deadline:
			s.t.Fatalf("the client has no mark %d", s.marked)
		}
	}
}

// compare compares what a client holds with what the source gives its user.
func (s *generated) compare(r reader, c *relaytest.Client) (rows int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), waitTimeout)
	defer cancel()
	conn, err := connectAs(ctx, s.sourceURI, "e2e-oracle")
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, rc := range s.cases {
		rows += s.compareTable(ctx, conn, r, c, rc, rc.name, rc.sql)
		if rc.more != "" {
			rows += s.compareTable(ctx, conn, r, c, rc, rc.name+"_more", rc.more)
		}
	}
	return rows
}

// compareTable compares one table of a client.
func (s *generated) compareTable(ctx context.Context, conn *pgx.Conn, r reader, c *relaytest.Client, rc ruleCase, table, sql string) (rows int) {
	s.t.Helper()
	sql = r.sql.Replace(sql)
	found, err := conn.Query(ctx, sql)
	if err != nil {
		s.t.Fatalf("%s\n%v", sql, err)
	}
	want, got := rowSet{}, rowSet{}
	var id, data string
	_, err = pgx.ForEachRow(found, []any{&id, &data}, func() error {
		want[id] = canonical(data)
		return nil
	})
	if err != nil {
		s.t.Fatalf("%s\n%v", sql, err)
	}
	for id, data := range c.Table(table) {
		got[id] = canonical(data)
	}
	if err := got.mustEqual(want); err != nil {
		s.t.Errorf("%s, table %s, at change %d: %v\nrules:\n%s\nSQL: %s", r.sub, table, s.marked-1, err, rc.rules, strings.Join(strings.Fields(sql), " "))
	}
	return len(want)
}
