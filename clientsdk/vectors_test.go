package clientsdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

var rewriteVectors = flag.Bool("rewrite", false, "write the apply vectors from the scenarios in vectorscenarios_test.go")

const vectorDir = "../protocol/testdata/apply"

// vector is one file of protocol/testdata/apply; README.md there explains it.
type vector struct {
	Name  string       `json:"name"`
	Note  string       `json:"note"`
	Steps []vectorStep `json:"steps"`
}

// vectorStep has exactly one field.
type vectorStep struct {
	Connect         *[]vectorPosition  `json:"connect,omitempty"`
	Line            json.RawMessage    `json:"line,omitempty"`
	Cut             bool               `json:"cut,omitempty"`
	Restart         bool               `json:"restart,omitempty"`
	Write           []UploadOp         `json:"write,omitempty"`
	Uploaded        *[]UploadOp        `json:"uploaded,omitempty"`
	WriteCheckpoint string             `json:"write_checkpoint,omitempty"`
	Expect          *vectorExpectation `json:"expect,omitempty"`
}

type vectorPosition struct {
	Name  string `json:"name"`
	After string `json:"after"`
}

type vectorExpectation struct {
	Rows map[string]map[string]json.RawMessage `json:"rows"`
	Open bool                                  `json:"open"` // the stream
}

var vectorSchema = Schema{Tables: []Table{
	{Name: "todos", Columns: []Column{{Name: "title"}, {Name: "done", Type: Integer}}},
}}

// TestVectors runs the files every SDK runs (S8).
func TestVectors(t *testing.T) {
	if *rewriteVectors {
		writeVectors(t)
	}
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil || len(files) < len(scenarios) {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			d := json.NewDecoder(bytes.NewReader(text))
			d.DisallowUnknownFields()
			var v vector
			if err := d.Decode(&v); err != nil {
				t.Fatal(err)
			}
			runVector(t, &v)
		})
	}
}

// vectorClient is a machine and a store without a network.
type vectorClient struct {
	t     *testing.T
	ctx   context.Context
	path  string
	store *store
	apply applier
	down  *machine.Downlink
	open  bool
}

func runVector(t *testing.T, v *vector) {
	c := &vectorClient{t: t, ctx: context.Background(), path: tempFile(t)}
	c.start()
	defer func() { c.stop() }()
	for i, s := range v.Steps {
		t.Logf("step %d", i)
		c.run(&s)
	}
}

func (c *vectorClient) start() {
	s, err := openStore(c.ctx, "sqlite", c.path, 1, func() string { return "c" }, func() int64 { return 1 })
	if err != nil {
		c.t.Fatal(err)
	}
	if err := s.applySchema(c.ctx, &vectorSchema); err != nil {
		c.t.Fatal(err)
	}
	c.store, c.apply, c.open = s, applier{store: s, verify: true}, false
	c.down = &machine.Downlink{Backoff: machine.Backoff{Min: time.Second, Max: time.Second}}
}

func (c *vectorClient) stop() {
	if err := c.store.close(); err != nil {
		c.t.Error(err)
	}
}

func (c *vectorClient) run(s *vectorStep) {
	t := c.t
	switch {
	case s.Connect != nil:
		c.connect(*s.Connect)
	case s.Line != nil:
		l, err := protocol.DecodeLine(s.Line)
		if err != nil {
			t.Fatal(err)
		}
		if !c.open {
			t.Fatal("a line on a closed stream")
		}
		c.step(machine.Received{Attempt: c.down.Attempt, Line: l})
	case s.Cut:
		c.step(machine.Ended{Attempt: c.down.Attempt, Err: errors.New("cut")})
	case s.Restart:
		c.stop()
		c.start()
	case s.Write != nil:
		if err := c.store.local(c.ctx, func(tx *Tx) error { return c.write(tx, s.Write) }); err != nil {
			t.Fatal(err)
		}
	case s.Uploaded != nil:
		c.upload(*s.Uploaded)
	case s.WriteCheckpoint != "":
		id, err := millrace.ParseOpID(s.WriteCheckpoint)
		if err != nil {
			t.Fatal(err)
		}
		g, err := c.store.gate(c.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if set, err := c.store.setTarget(c.ctx, int64(id), g.Last); err != nil || !set {
			t.Fatalf("target not set: %v", err)
		}
		if _, err := c.store.publishPending(c.ctx); err != nil {
			t.Fatal(err)
		}
	case s.Expect != nil:
		c.expect(s.Expect)
	default:
		t.Fatal("an empty step")
	}
}

// connect opens a stream and checks what the request says.
func (c *vectorClient) connect(want []vectorPosition) {
	if c.down.Phase == machine.Waiting {
		c.step(machine.TimerFired{Attempt: c.down.Attempt})
	} else {
		c.step(machine.Connect{})
	}
	_, at, err := c.store.positions(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	got := []vectorPosition{}
	for _, p := range at {
		got = append(got, vectorPosition{p.name, p.after.String()})
	}
	slices.SortFunc(got, func(a, b vectorPosition) int { return compareText(a.Name, b.Name) })
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Fatalf("the request's buckets (-want +got):\n%s", diff)
	}
}

func (c *vectorClient) step(e machine.Event) {
	for _, a := range c.down.Step(e) {
		switch a := a.(type) {
		case machine.FetchCredentials:
			c.step(machine.CredentialsReady{Attempt: a.Attempt})
		case machine.OpenStream:
			c.open = true
			c.step(machine.Opened{Attempt: a.Attempt, InBand: true})
		case machine.CloseStream, machine.StartTimer:
			c.open = false
		case machine.SendAck:
		case machine.Stage:
			c.apply.add(a.Data)
			if e := c.apply.flush(c.ctx, c.down.Attempt); e != nil {
				c.step(e)
				return
			}
		default:
			answer := c.apply.run(c.ctx, c.down.Attempt, a)
			if f, ok := answer.(machine.StorageFailed); ok {
				c.t.Fatal(f.Err)
			}
			if answer != nil {
				c.step(answer)
			}
		}
	}
}

func (c *vectorClient) write(tx *Tx, ops []UploadOp) error {
	for _, op := range ops {
		var data map[string]any
		if op.Data != nil {
			if err := json.Unmarshal(op.Data, &data); err != nil {
				return err
			}
		}
		columns := slices.Sorted(maps.Keys(data))
		var q string
		var args []any
		for _, col := range columns {
			args = append(args, data[col])
		}
		switch op.Kind {
		case UploadPut:
			q = `INSERT INTO ` + op.Type + ` (` + strings.Join(append(columns, "id"), ",") + `) VALUES (?` + strings.Repeat(",?", len(columns)) + `)`
		case UploadPatch:
			q = `UPDATE ` + op.Type + ` SET ` + strings.Join(columns, " = ?, ") + ` = ? WHERE id = ?`
		default:
			q = `DELETE FROM ` + op.Type + ` WHERE id = ?`
		}
		if _, err := tx.Execute(c.ctx, q, append(args, op.ID)...); err != nil {
			return err
		}
	}
	return nil
}

// upload empties the queue and checks what was in it.
func (c *vectorClient) upload(want []UploadOp) {
	got := []UploadOp{}
	for {
		tx, err := (&DB{store: c.store}).NextTransaction(c.ctx)
		if err != nil {
			c.t.Fatal(err)
		}
		if tx == nil {
			break
		}
		got = append(got, tx.Ops...)
		if err := tx.Complete(c.ctx); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, list := range [][]UploadOp{want, got} {
		for i := range list {
			if list[i].Data != nil {
				list[i].Data = json.RawMessage(canonical(c.t, string(list[i].Data)))
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		c.t.Fatalf("uploaded (-want +got):\n%s", diff)
	}
	if _, err := c.store.publishPending(c.ctx); err != nil {
		c.t.Fatal(err)
	}
}

func (c *vectorClient) expect(e *vectorExpectation) {
	want := map[rowName]string{}
	for typ, rows := range e.Rows {
		for id, data := range rows {
			want[rowName{typ, id}] = canonical(c.t, string(data))
		}
	}
	if diff := cmp.Diff(want, (&DB{store: c.store}).shown(c.t), cmp.AllowUnexported(rowName{})); diff != "" {
		c.t.Fatalf("readers see (-want +got):\n%s", diff)
	}
	if c.open != e.Open {
		c.t.Fatalf("the stream is open: %v", c.open)
	}
}
