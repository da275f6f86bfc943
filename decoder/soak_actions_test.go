package decoder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/internal/faultnet"
	"github.com/millrace/millrace/internal/pgtest"
)

// soakAction is something that may happen, as often as its weight says.
type soakAction struct {
	name   string
	weight int
	do     func(*soak) error
}

var soakActions = []soakAction{
	{"transaction", 90, (*soak).transact},
	{"pause", 12, (*soak).pause},
	{"row moves to the other shard", 8, (*soak).moveRow},
	{"transaction stays open", 4, (*soak).holdTransaction},
	{"table rewritten or indexed", 2, (*soak).maintain},

	{"decoder crashes in a call of the sidecar", 5, (*soak).crash},
	{"decoder killed", 2, (*soak).kill},
	{"decoder down for a while", 2, (*soak).stopDecoder},
	{"stream ended by the source", 3, func(s *soak) error { return s.terminate("walsender") }},
	{"all connections ended by the source", 2, func(s *soak) error { return s.terminate("") }},
	{"source's connections cut in a message", 3, func(s *soak) error { return s.cut(s.shard().net) }},
	{"sidecar's connections cut in a message", 4, func(s *soak) error { return s.cut(s.sidecar.net) }},
	{"network of a source hangs", 1, func(s *soak) error { return s.stall(s.shard().net) }},
	{"network of the sidecar hangs", 1, func(s *soak) error { return s.stall(s.sidecar.net) }},
	{"slot dropped while it is read", 1, (*soak).dropSlot},
	{"slot dropped while the decoder is down", 1, func(s *soak) error { return s.loseWhileDown((*soak).dropSlot) }},
	{"slot advanced while the decoder is down", 1, func(s *soak) error { return s.loseWhileDown((*soak).advanceSlot) }},
	{"publication made again", 1, (*soak).republish},
	{"source restarted", 2, (*soak).restartSource},
	{"sidecar restarted", 3, (*soak).restartSidecar},
	{"rules deployed", 4, (*soak).deploy},
	{"rules rolled back", 2, (*soak).rollBack},
}

// errNotNow tells that an action makes no sense at the moment.
var errNotNow = errors.New("not now")

// act plays one step.
func (s *soak) act() {
	s.runFollowUps(false)
	total := 0
	for i := range soakActions {
		total += soakActions[i].weight
	}
	n := s.n(total)
	for i := range soakActions {
		a := &soakActions[i]
		if n -= a.weight; n >= 0 {
			continue
		}
		err := a.do(s)
		switch {
		case errors.Is(err, errNotNow):
			return
		case err != nil:
			s.log.printf("%s: %v", a.name, err)
			s.count[a.name+" refused"]++
		default:
			s.count[a.name]++
		}
		return
	}
}

// after does something some steps later.
func (s *soak) after(steps int, do func()) {
	s.followUps = append(s.followUps, followUp{s.step + steps, do})
}

func (s *soak) runFollowUps(all bool) {
	due := s.followUps
	s.followUps = nil
	for _, f := range due {
		if all || f.step <= s.step {
			f.do()
		} else {
			s.followUps = append(s.followUps, f)
		}
	}
}

// calm ends what is under way and lets the decoder work.
func (s *soak) calm() {
	s.runFollowUps(true)
	s.decoder.calls.Store(0)
	for _, p := range []*faultnet.Proxy{s.shards[0].net, s.shards[1].net, s.sidecar.net} {
		p.SetHook(nil)
		p.Resume()
	}
	s.log.printf("calm")
}

func (s *soak) shard() *soakShard { return s.shards[s.n(len(s.shards))] }

// execute runs statements on a shard in one transaction.
func (s *soak) execute(shard *soakShard, sql string, rollback bool) error {
	if shard.down {
		return errNotNow
	}
	err := transaction(s.t.Context(), shard.db, sql, rollback)
	s.log.printf("%s: %s -- %v", shard.name, sql, err)
	return err
}

// statements are those of a transaction, at times with a transfer between
// accounts, half of it at the beginning.
func (s *soak) statements() string {
	var list []string
	for range 1 + s.n(3) {
		switch n := s.n(24); {
		case n < 2:
			list = append(list, s.ddl())
		case n < 7:
			list = append(list, s.teams())
		default:
			list = append(list, s.dml())
		}
	}
	if s.n(4) == 0 {
		from, to, amount := 1+s.n(5), 1+s.n(5), s.n(50)
		list = append(append([]string{fmt.Sprintf("update acct set balance = balance - %d where id = %d", amount, from)}, list...),
			fmt.Sprintf("update acct set balance = balance + %d where id = %d", amount, to))
	}
	return strings.Join(list, "; ")
}

// teams is a statement on the tables of the definition with a parameter.
func (s *soak) teams() string {
	s.next++
	id, team := 1+s.n(150), 1+s.n(12)
	return []string{
		fmt.Sprintf("update m set team = %d where id %% 9 = %d", team, s.n(9)),
		fmt.Sprintf("update m set note = repeat('n%d', 700) where id = %d", s.next, id),
		fmt.Sprintf("update m set team = nullif(team, %d) where id %% 4 = 0", team),
		fmt.Sprintf("delete from m where id between %d and %d", id, id+3),
		fmt.Sprintf("insert into m values (%d, %d, repeat('i', 2500)) on conflict (id) do update set team = excluded.team", id, team),
		fmt.Sprintf("update team set owner = 'u%d' where id = %d", s.n(7), team),
		fmt.Sprintf("delete from team where id = %d", team),
		fmt.Sprintf("insert into team values (%d, 'u%d') on conflict (id) do nothing", team, s.n(7)),
		fmt.Sprintf("update team set id = id + 100, owner = owner || 'x' where id = %d and length(owner) < 5 and not exists (select from team where id = %[1]d + 100)", team),
		"truncate team; insert into team select g, 'u' || g % 3 from generate_series(1, 9) g",
		"alter table m replica identity full", "alter table m replica identity default",
	}[s.n(12)]
}

func (s *soak) transact() error {
	_ = s.execute(s.shard(), s.statements(), s.n(10) == 0) // refused ones are part of the game
	return nil
}

func (s *soak) pause() error {
	wait(s.t.Context(), time.Duration(s.n(200))*time.Millisecond)
	return nil
}

func (s *soak) maintain() error {
	return s.execute(s.shard(), []string{"vacuum full a", "cluster c using c_pkey", "create index on d(v)", "vacuum full m"}[s.n(4)], false)
}

// moveRow copies rows to the other shard and deletes them here, in either order.
func (s *soak) moveRow() error {
	i := s.n(2)
	from, to := s.shards[i], s.shards[1-i]
	if from.down || to.down {
		return errNotNow
	}
	id := 1 + s.n(300)
	rows, err := from.db.Query(s.t.Context(), "select id, v, big from c where id between $1 and $1 + 2", id)
	if err != nil {
		return err
	}
	type c struct {
		ID  int64
		V   *int64
		Big *string
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[c])
	if err != nil {
		return err
	}
	leave := func() error {
		return s.execute(from, fmt.Sprintf("delete from c where id between %d and %d", id, id+2), false)
	}
	arrive := func() error {
		for _, r := range list {
			if _, err := to.db.Exec(s.t.Context(), "insert into c values ($1, $2, $3) on conflict (id) do update set v = excluded.v, big = excluded.big", r.ID, r.V, r.Big); err != nil {
				return err
			}
		}
		return nil
	}
	if s.n(2) == 0 {
		return errors.Join(leave(), arrive())
	}
	return errors.Join(arrive(), leave())
}

// holdTransaction leaves a transaction open for some steps.
func (s *soak) holdTransaction() error {
	shard := s.shard()
	if shard.down || shard.held != nil {
		return errNotNow
	}
	ctx := s.t.Context()
	conn, err := pgx.Connect(ctx, shard.uri)
	if err != nil {
		return err
	}
	tx, err := conn.Begin(ctx)
	if err == nil {
		_, err = tx.Conn().PgConn().Exec(ctx, "set lock_timeout = '500ms'; "+s.dml()).ReadAll()
	}
	if err != nil {
		_ = conn.Close(ctx)
		return err
	}
	shard.held = tx
	commit := s.n(4) > 0
	more := s.dml()
	s.log.printf("%s: held open: then %s, commit %t", shard.name, more, commit)
	s.after(1+s.n(8), func() {
		ctx := context.Background() // also after the test's end
		defer conn.Close(ctx)
		shard.held = nil
		var err error
		if commit {
			if _, err = conn.PgConn().Exec(ctx, more).ReadAll(); err == nil {
				err = tx.Commit(ctx)
			}
		}
		s.log.printf("%s: held transaction ends, commit %t: %v", shard.name, commit, err)
	})
	return nil
}

// crash makes one of the decoder's next calls of the sidecar fail, before or
// after it is done.
func (s *soak) crash() error {
	s.decoder.calls.Store(int64(1 + s.n(30)))
	return nil
}

// kill ends the decoder with all its connections at once.
func (s *soak) kill() error {
	if !s.decoder.running() {
		return errNotNow
	}
	for _, shard := range s.shards {
		shard.net.CutAll()
	}
	s.sidecar.net.CutAll()
	s.decoder.stop()
	s.decoder.start()
	return nil
}

func (s *soak) stopDecoder() error {
	if !s.decoder.running() {
		return errNotNow
	}
	s.log.printf("decoder stopped")
	s.decoder.stop()
	s.after(1+s.n(10), func() {
		if !s.decoder.running() {
			s.log.printf("decoder started")
			s.decoder.start()
		}
	})
	return nil
}

// terminate ends the decoder's sessions of a kind on a source; "" is all kinds.
func (s *soak) terminate(kind string) error {
	shard := s.shard()
	if shard.down {
		return errNotNow
	}
	var n int
	err := shard.db.QueryRow(s.t.Context(), `
		SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'millrace%' AND ($1 = '' OR backend_type = $1)`, kind).Scan(&n)
	s.log.printf("%s: %d sessions terminated %s", shard.name, n, kind)
	return err
}

// cut lets some bytes pass and then breaks the connection that carries the last
// of them, in either direction; the receiver gets them or not. That is now, or
// in a while.
func (s *soak) cut(net *faultnet.Proxy) error {
	bytes := 1 + s.n([]int{200, 20_000, 200_000}[s.n(3)])
	from := faultnet.Direction(s.n(2))
	verdict := []faultnet.Verdict{faultnet.Cut, faultnet.CutAfter}[s.n(2)]
	left := make(chan int, 1) // calls of a hook are concurrent
	left <- bytes
	net.SetChunk([]int{0, 100, 1000}[s.n(3)])
	net.SetHook(func(_ int, dir faultnet.Direction, chunk []byte) faultnet.Verdict {
		if dir != from {
			return faultnet.Pass
		}
		n := <-left
		was := n
		n -= len(chunk)
		left <- n
		if was > 0 && n <= 0 {
			return verdict
		}
		return faultnet.Pass
	})
	s.log.printf("connection of %s is cut after %d bytes", net.Addr(), bytes)
	s.after(6, func() { net.SetChunk(0) })
	return nil
}

// stall makes a network silent for a moment.
func (s *soak) stall(net *faultnet.Proxy) error {
	net.Stall()
	s.after(1+s.n(5), net.Resume)
	return nil
}

// maxLosses of a shard's history, so that a decoder does not refuse to begin
// anew (maxRestarts).
const maxLosses = maxRestarts - 1

// slot is the slot of a shard; "" if there is none.
func (shard *soakShard) slot(ctx context.Context) (name string, err error) {
	err = shard.db.QueryRow(ctx, "SELECT coalesce(max(slot_name), '') FROM pg_replication_slots WHERE database = current_database() AND NOT temporary").Scan(&name)
	return name, err
}

func (s *soak) dropSlot() error {
	shard := s.shard()
	if shard.down || shard.losses >= maxLosses {
		return errNotNow
	}
	ctx := s.t.Context()
	name, err := shard.slot(ctx)
	if err != nil || name == "" {
		return errors.Join(errNotNow, err)
	}
	shard.losses++
	pgtest.Eventually(s.t, patience, func() error {
		_, err := shard.db.Exec(ctx, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active", name)
		if err == nil {
			_, err = shard.db.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", name)
		}
		return err
	})
	s.log.printf("%s: slot %s dropped", shard.name, name)
	return nil
}

func (s *soak) advanceSlot() error {
	shard := s.shard()
	if shard.down || shard.losses >= maxLosses {
		return errNotNow
	}
	shard.losses++
	_, err := shard.db.Exec(s.t.Context(), `
		SELECT pg_replication_slot_advance(slot_name, pg_current_wal_insert_lsn()) FROM pg_replication_slots
		WHERE database = current_database() AND NOT active AND NOT temporary AND NOT pg_is_in_recovery()`)
	s.log.printf("%s: slot advanced: %v", shard.name, err)
	return err
}

// loseWhileDown loses history between two terms, with changes around it.
func (s *soak) loseWhileDown(lose func(*soak) error) error {
	if !s.decoder.running() {
		return errNotNow
	}
	s.decoder.stop()
	defer s.decoder.start()
	_ = s.transact()
	_ = s.transact()
	err := lose(s)
	_ = s.transact()
	return err
}

func (s *soak) republish() error {
	shard := s.shard()
	if shard.losses >= maxLosses {
		return errNotNow
	}
	shard.losses++
	return errors.Join(s.execute(shard, "drop publication millrace", false), s.execute(shard, "create publication millrace for all tables", false))
}

func (s *soak) restartSource() error {
	shard := s.shard()
	if shard.down {
		return errNotNow
	}
	kill := s.n(2) == 0
	shard.down = true
	s.log.printf("%s: source goes down, killed %t", shard.name, kill)
	if kill {
		shard.server.Kill(s.t)
	} else {
		s.stop(shard.name, shard.server)
	}
	s.after(s.n(5), func() {
		shard.server.Start(s.t)
		shard.db = connect(s.t, shard.uri)
		if _, err := shard.db.Exec(context.Background(), "set lock_timeout = '500ms'"); err != nil {
			s.t.Fatal(err)
		}
		shard.down = false
		s.log.printf("%s: source is up", shard.name)
	})
	return nil
}

// stop stops a server. A source waits for its replication client, which may hang,
// and is killed in the end: that is a fault like others.
func (s *soak) stop(name string, server *pgtest.Server) {
	if server.StopOrKill(s.t) {
		s.log.printf("%s did not stop in time and was killed", name)
	}
}

func (s *soak) restartSidecar() error {
	if s.sidecar.down {
		return errNotNow
	}
	kill := s.n(2) == 0
	s.sidecar.down = true
	s.log.printf("sidecar goes down, killed %t", kill)
	if kill {
		s.sidecar.server.Kill(s.t)
	} else {
		s.stop("sidecar", s.sidecar.server)
	}
	s.after(s.n(5), func() {
		s.sidecar.server.Start(s.t)
		s.sidecar.down = false
		s.log.printf("sidecar is up")
	})
	return nil
}

func (s *soak) deploy() error {
	s.variant ^= 1 << s.n(4)
	if s.n(3) == 0 {
		s.variant = s.n(soakVariants)
	}
	return s.ask(millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: soakRules(s.variant), File: "soak.yaml"})
}

func (s *soak) rollBack() error {
	return s.ask(millrace.RuleRequest{Kind: millrace.RequestRollback})
}

func (s *soak) ask(q millrace.RuleRequest) error {
	if s.sidecar.down {
		return errNotNow
	}
	rules, err := s.sidecar.store.Rules(s.t.Context())
	if err != nil {
		return err
	}
	defer rules.Close()
	id, err := rules.Request(s.t.Context(), q)
	s.log.printf("request %d: %s variant %d: %v", id, q.Kind, s.variant, err)
	return err
}
