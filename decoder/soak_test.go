package decoder

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/pgtest"
)

// The soak: the workload of TestRandomWorkload on two shards with the real
// sidecar, while whatever may fail does: the decoder is killed, connections are
// cut, slots are dropped and advanced, servers are restarted, rules are deployed
// and rolled back. When it is quiet, every bucket of every rule set that is fed
// is what the rules' queries give on the sources (I6), and the history holds
// together (I1, I3, I5).
//
// It plays when it is asked to, not with every run of the tests.
//
//	MILLRACE_SOAK_SEED=7    play this seed alone
//	MILLRACE_SOAK_SEEDS=100 play that many
//	MILLRACE_SOAK_FOR=2h    play new seeds for that long
//	MILLRACE_SOAK_GROUPS=3  seeds played at the same time, each on servers of its own

func TestSoak(t *testing.T) {
	if os.Getenv("MILLRACE_SOAK_SEED")+os.Getenv("MILLRACE_SOAK_SEEDS")+os.Getenv("MILLRACE_SOAK_FOR") == "" {
		t.Skip("set MILLRACE_SOAK_SEED, MILLRACE_SOAK_SEEDS or MILLRACE_SOAK_FOR, or use make soak")
	}
	t.Parallel()
	seeds := newSeedList(t)
	for group := range envNumber(t, "MILLRACE_SOAK_GROUPS", 3) {
		t.Run(fmt.Sprint("group=", group), func(t *testing.T) {
			t.Parallel()
			servers := soakServers{
				sources: [2]*pgtest.Server{pgtest.New(t, pgtest.Options{}), pgtest.New(t, pgtest.Options{})},
				sidecar: pgtest.New(t, pgtest.Options{}),
			}
			for {
				seed, ok := seeds.next()
				if !ok || !t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { playSoak(t, servers, seed) }) {
					return
				}
			}
		})
	}
}

// soakServers are the servers of a group. Each seed has databases of its own.
type soakServers struct {
	sources [2]*pgtest.Server
	sidecar *pgtest.Server
}

// seedList gives each seed once.
type seedList struct {
	mu    sync.Mutex
	at    uint64
	left  int
	until time.Time
}

func newSeedList(t *testing.T) *seedList {
	s := &seedList{at: 1, left: envNumber(t, "MILLRACE_SOAK_SEEDS", 32)}
	if text := os.Getenv("MILLRACE_SOAK_FOR"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			t.Fatal(err)
		}
		s.at, s.left, s.until = uint64(time.Now().UnixMilli()), 0, time.Now().Add(d)
	}
	if seed := envNumber(t, "MILLRACE_SOAK_SEED", 0); seed != 0 {
		s.at, s.left, s.until = uint64(seed), 1, time.Time{}
	}
	return s
}

func (s *seedList) next() (seed uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left--; s.left < 0 && !time.Now().Before(s.until) {
		return 0, false
	}
	s.at++
	return s.at - 1, true
}

func envNumber(t testing.TB, name string, standard int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func playSoak(t *testing.T, servers soakServers, seed uint64) {
	s := newSoak(t, servers, seed)
	t.Logf("replay: MILLRACE_SOAK_SEED=%d go test -race -run TestSoak ./decoder", seed)
	defer s.close()
	s.decoder.start()
	watch := s.watchBalances()
	if seed%4 != 0 { // the others have faults during the first start
		s.settles()
	}
	for s.step = range soakSteps {
		s.act()
	}
	s.calm()
	s.settles()
	watch.finish()
	s.log.printf("%s", s.summary())
	t.Log(s.summary())
}

// soakSteps are drawn for each seed.
const soakSteps = 110

// soakPatience is how long everything may take to be right once it is quiet.
const soakPatience = 2 * time.Minute
