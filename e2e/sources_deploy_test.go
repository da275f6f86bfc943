package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace/millrace/internal/pgtest"
	"github.com/millrace/millrace/relay/relaytest"
)

// versions are the values of the column that tells old rules from new ones, over
// both tables of the changed definition.
const versions = `SELECT DISTINCT version || '', '' FROM (SELECT version FROM notes UNION ALL SELECT version FROM invoices) v`

// watchSwitch looks at a device again and again until stop is closed: at no time does
// it show rows of the old and of the new rules together, or none at all.
func watchSwitch(d *appDevice, stop <-chan struct{}) <-chan error {
	result := make(chan error, 1)
	go func() {
		for looks := 0; ; looks++ {
			select {
			case <-stop:
				if looks == 0 {
					result <- errors.New("nothing was looked at")
				} else {
					result <- nil
				}
				return
			default:
			}
			got, err := d.texts(versions)
			if err == nil && len(got) != 1 {
				err = fmt.Errorf("the device shows rows of the versions %v", got)
			}
			if err != nil {
				result <- err
				return
			}
		}
	}()
	return result
}

// oneVersion is an error if a stream holds rows of old and new rules together.
func oneVersion(c *relaytest.Client) error {
	found := map[string]bool{}
	for _, table := range []string{"notes", "invoices"} {
		for _, data := range c.Table(table) {
			found[data[strings.LastIndex(data, ":"):]] = true
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("the stream holds rows of the versions %v", found)
	}
	return nil
}

// deploy deploys rules and waits until they are in force.
func (s *spread) deploy(rules string) {
	s.t.Helper()
	if out, errOut, code := run(s.t, "rules", "deploy", "-c", s.config, s.writeRules("next.yaml", rules)); code != 0 {
		s.t.Fatalf("deploy ends with %d:\n%s%s", code, out, errOut)
	}
}

// A definition that reads two connections changes while everything runs and is
// written to: it switches for the tables of both in one checkpoint, its buckets are
// sent again, and nothing else is.
func TestDeployAcrossSources(t *testing.T) {
	t.Parallel()
	s := newSpread(t, spreadRules(1, "total"))
	s.fill()
	s.serve()
	device := newAppDevice(s.app, "device", "alice", spreadTables...)
	device.connect()
	stream := relaytest.Dial(t, s.url, s.token("alice", nil), relaytest.Request("stream"), nil)
	s.showsAll(device, 1, "total")
	foldUntil(t, stream, s.holdsAll(stream, "alice", 1, "total", spreadSources...))
	before := map[string]string{} // logical name -> wire name
	for name := range stream.Target {
		before[name[strings.Index(name, "#")+1:]] = name
	}

	stop := make(chan struct{})
	switched := watchSwitch(device, stop)
	var writing sync.WaitGroup
	writing.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			for _, source := range []string{"eu", "us"} {
				sql := fmt.Sprintf(`UPDATE notes SET title = 'turn %d' WHERE id = '%s-%d'`, i, source, 1+i%40)
				if _, err := tryQuery[int](s.uris[source], `WITH w AS (`+sql+` RETURNING 1) SELECT count(*)::int FROM w`); err != nil {
					t.Errorf("source %s: %v", source, err)
					return
				}
			}
		}
	})
	s.deploy(spreadRules(2, "total"))
	device.shows(versions, map[string]string{"2": ""})
	close(stop)
	writing.Wait()
	if err := <-switched; err != nil {
		t.Error(err)
	}

	s.showsAll(device, 2, "total")
	ops := foldUntil(t, stream, func() error {
		if err := oneVersion(stream); err != nil {
			t.Error(err)
		}
		return s.holdsAll(stream, "alice", 2, "total", spreadSources...)()
	})
	for name := range stream.Target {
		logical := name[strings.Index(name, "#")+1:]
		switch changed := strings.HasPrefix(logical, "mine["); {
		case changed && (name == before[logical] || ops[name] < 60):
			t.Errorf("%s was %s before; %d ops were sent", name, before[logical], ops[name])
		case !changed && (name != before[logical] || ops[name] != 0):
			t.Errorf("%s was %s before; %d ops were sent of a definition that did not change", name, before[logical], ops[name])
		}
	}
	s.oracle(2, "total")
}

// While a source is down, a deploy whose changed definitions do not read it goes
// through. One that does waits, and says for which source and why; the old rules
// serve until it is back.
func TestDeployWhileASourceIsDown(t *testing.T) {
	t.Parallel()
	s := newSpread(t, spreadRules(1, "total"))
	s.fill()
	s.serve()
	device := newAppDevice(s.app, "device", "alice", spreadTables...)
	device.connect()
	s.showsAll(device, 1, "total")
	s.away.Kill(t)

	s.deploy(spreadRules(1, "total * 2"))
	device.shows(`SELECT id, total || '' FROM bills WHERE id IN ('i1', 'i2')`, map[string]string{"i1": "2", "i2": "4"})
	const ofUs = `SELECT 'of us', count(*) || '' FROM notes WHERE region = 'us'`
	device.shows(ofUs, map[string]string{"of us": "30"})

	if out, errOut, code := run(t, "rules", "deploy", "-c", s.config, "--no-wait", s.writeRules("next.yaml", spreadRules(2, "total * 2"))); code != 0 {
		t.Fatalf("deploy ends with %d:\n%s%s", code, out, errOut)
	}
	pgtest.Eventually(t, startTimeout, func() error {
		out, errOut, code := run(t, "rules", "status", "-c", s.config)
		if code != 0 || !strings.Contains(out, "Rule set 3 waits for source us: ") || strings.Contains(out, "us: preparing") || strings.Contains(out, "source eu") {
			return fmt.Errorf("rules status ends with %d:\n%s%s", code, out, errOut)
		}
		return nil
	})
	s.on("billing", `UPDATE invoices SET total = 100 WHERE id = 'i1'`)
	s.on("eu", `UPDATE notes SET title = 'still served' WHERE id = 'eu-1'`)
	device.shows(`SELECT id, total || '' FROM bills WHERE id = 'i1'`, map[string]string{"i1": "200"})
	device.shows(`SELECT id, title FROM notes WHERE id = 'eu-1'`, map[string]string{"eu-1": "still served"})
	device.shows(versions, map[string]string{"1": ""})
	device.shows(ofUs, map[string]string{"of us": "30"})

	stop := make(chan struct{})
	switched := watchSwitch(device, stop)
	s.away.Start(t)
	s.on("us", `DELETE FROM notes WHERE id = 'us-1'; INSERT INTO notes VALUES ('us-new', 'alice', 'new')`)
	s.showsAll(device, 2, "total * 2")
	close(stop)
	if err := <-switched; err != nil {
		t.Error(err)
	}
	out, errOut, code := run(t, "rules", "status", "-c", s.config)
	if code != 0 || strings.Contains(out, "waits for") {
		t.Errorf("rules status ends with %d:\n%s%s", code, out, errOut)
	}
	s.oracle(2, "total * 2")
}
