package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgtest"
)

// Devices that write, go offline and come back while millrace, the sidecar and
// the source are killed (kill -9) and started again: nobody ever sees half a
// transaction or misses an own write, and in the end every device shows what
// the source gives it. E2E_CLIENT_SEEDS=20 seeds run on the same servers, from
// E2E_CLIENT_SEED=1; E2E_CLIENT_LOAD=1500ms is the length of each.
func TestDevicesThroughKills(t *testing.T) {
	d := newDemo(t, demoOptions{ownServers: true, schema: audit})
	d.start()
	d.ready()
	var writers []*writer
	for i, c := range []struct {
		name, user string
		transport  clientsdk.Transport
	}{{"phone", "alice", clientsdk.WebSocket}, {"laptop", "alice", clientsdk.HTTP}, {"tablet", "bob", clientsdk.Auto}} {
		writers = append(writers, &writer{device: newDevice(t, d, c.name, c.user, c.transport), group: i + 1})
	}
	// carol writes nothing; a list is lent to her and taken back.
	carol := &writer{device: newDevice(t, d, "watch", "carol", clientsdk.WebSocket), group: len(writers) + 1}
	d.seedGroups(len(writers) + 1)
	execSQL(t, d.sourceURI, fmt.Sprintf(`INSERT INTO list_members VALUES ('%s', 'carol')`, sharedList))
	all := append(writers, carol)
	for _, w := range all {
		w.connect()
		w.inSync(waitTimeout)
	}
	first, seeds := envInt(t, "E2E_CLIENT_SEED", 1), envInt(t, "E2E_CLIENT_SEEDS", 20)
	length := envDuration(t, "E2E_CLIENT_LOAD", 1500*time.Millisecond)
	var kills [len(victims)]int
	began := time.Now()
	for seed := first; seed < first+seeds; seed++ {
		d.killSeed(seed, length, writers, all, &kills)
		if t.Failed() {
			t.Fatalf("seed %d; repeat with E2E_CLIENT_SEED=%d E2E_CLIENT_SEEDS=1", seed, seed)
		}
	}
	repeated := d.checkAudit(writers)
	var transactions, polls int64
	for _, w := range all {
		transactions += w.counter.Load()
		polls += w.polls.Load()
	}
	t.Logf("%d local transactions, %d of them sent again after a kill took the answer; looked %d times; killed %v %v times; %v",
		transactions, repeated, polls, victims, kills, time.Since(began).Round(time.Second))
	if polls < int64(30*seeds) || transactions < int64(3*seeds) {
		t.Error("too little happened")
	}
	if code := d.process.terminate(t, 20*time.Second); code != 0 {
		t.Errorf("after SIGTERM millrace ends with %d, want 0", code)
	}
}

// victims is what is killed.
var victims = [...]string{"millrace", "sidecar", "source"}

func (d *demoSystem) killSeed(seed int, length time.Duration, writers, all []*writer, kills *[len(victims)]int) {
	d.t.Helper()
	rnd := rand.New(rand.NewPCG(uint64(seed), 21))
	// One device at a time is started anew, as an app is.
	reopened := all[seed%len(all)]
	if err := reopened.db.Close(); err != nil {
		d.t.Fatal(err)
	}
	reopened.open()
	reopened.connect()

	stop, stopWatching := make(chan struct{}), make(chan struct{})
	var working, watching sync.WaitGroup
	for i, w := range writers {
		own := rand.New(rand.NewPCG(uint64(seed), uint64(100+i)))
		working.Go(func() { w.live(stop, own) })
	}
	working.Go(func() { d.disturb(stop, seed) })
	for _, w := range all {
		watching.Go(func() { w.watch(stopWatching) })
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		waitFor(d.t, time.Duration(rnd.Int64N(int64(500*time.Millisecond))))
		k := rnd.IntN(len(victims))
		down := time.Duration(rnd.Int64N(int64(300 * time.Millisecond)))
		switch victims[k] {
		case "millrace":
			d.process.kill9(d.t)
			waitFor(d.t, down)
			d.start()
		case "sidecar":
			d.sidecar.Kill(d.t)
			waitFor(d.t, down)
			d.sidecar.Start(d.t)
		case "source":
			d.source.Kill(d.t)
			waitFor(d.t, down)
			d.source.Start(d.t)
		}
		kills[k]++
	}
	close(stop)
	working.Wait()
	began := time.Now()
	last := fmt.Sprint("last of seed ", seed)
	for _, w := range writers {
		w.uploadedAll(drainTimeout)
	}
	execSQL(d.t, d.sourceURI, sharedUpdate(last))
	slow := time.AfterFunc(slowCatchUp, func() { d.explain(all) })
	for _, w := range all {
		w.sees(last, drainTimeout)
	}
	slow.Stop()
	caughtUp := time.Since(began)
	close(stopWatching)
	watching.Wait()
	for _, w := range all {
		w.inSync(drainTimeout)
	}
	d.t.Logf("seed %d: caught up %v after the load", seed, caughtUp.Round(time.Millisecond))
	if !d.process.running() {
		d.t.Errorf("millrace ended by itself with %v", d.process.cmd.ProcessState)
	}
}

// uploadedAll waits until nothing is left to upload.
func (w *writer) uploadedAll(timeout time.Duration) {
	w.t.Helper()
	pgtest.Eventually(w.t, timeout, func() error {
		queue, err := w.db.UploadQueue(w.t.Context(), 1)
		if err == nil && len(queue) > 0 {
			err = fmt.Errorf("%s: transaction %d waits for upload after %d attempts: %s", w.name, queue[0].Transaction, queue[0].Attempts, queue[0].LastError)
		}
		return err
	})
}

// sees waits until the device shows a title of the shared group.
func (w *writer) sees(title string, timeout time.Duration) {
	w.t.Helper()
	pgtest.Eventually(w.t, timeout, func() error {
		var got string
		if err := w.db.QueryRow(w.t.Context(), `SELECT title FROM todos WHERE id = ?`, groupID(0, 0)).Scan(&got); err != nil {
			return err
		}
		if got != title {
			return fmt.Errorf("%s shows %q, not yet %q; status %+v", w.name, got, title, w.db.Status())
		}
		return nil
	})
}

// slowCatchUp is after how long a person would begin to look.
const slowCatchUp = 10 * time.Second

// explain logs what a person would look at.
func (d *demoSystem) explain(all []*writer) {
	for _, w := range all {
		queue, err := w.db.UploadQueue(context.Background(), 1)
		d.t.Logf("%s: %+v; queue %+v %v", w.name, w.db.Status(), queue, err)
	}
	for _, sql := range []string{`SELECT jsonb_pretty(to_jsonb(s)) FROM millrace.status s`,
		`SELECT coalesce(jsonb_pretty(jsonb_agg(p)), '') FROM millrace.pending_write_checkpoints p`} {
		text, err := tryQuery[string](d.sidecarURI, sql)
		d.t.Logf("%s: %s %v", sql, text, err)
	}
	d.t.Logf("the end of millrace's log:\n%s", d.process.log.tail(30))
}

// disturb writes on the source until stop: the shared group, and the list that
// is lent. A source that is away is waited for.
func (d *demoSystem) disturb(stop <-chan struct{}, seed int) {
	ctx := context.Background()
	lend := fmt.Sprintf(`INSERT INTO list_members VALUES ('%s', 'carol') ON CONFLICT DO NOTHING`, lentList)
	takeBack := fmt.Sprintf(`DELETE FROM list_members WHERE list_id = '%s' AND user_id = 'carol'`, lentList)
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		case <-time.After(30 * time.Millisecond):
		}
		conn, err := connectAs(ctx, d.sourceURI, "e2e-disturb")
		if err != nil {
			continue
		}
		sql := sharedUpdate(fmt.Sprintf("source %d.%d", seed, n)) + ";" + []string{lend, takeBack}[n%2]
		_, _ = conn.PgConn().Exec(ctx, sql).ReadAll() // a kill may take it
		_ = conn.Close(ctx)
	}
}
