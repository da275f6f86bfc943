// Package sinktest is a sidecar in memory, for tests of the decoder: it has
// the meaning of a sink and a registry, none of the storage. It is strict: what
// a decoder must not do is an error. Only tests import it.
package sinktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace"
)

// Step is a point in the sidecar's work where a fault may be injected.
type Step string

// The steps. AfterCommit is reached when the flush is durable: an error there
// is a connection that broke before the answer came.
const (
	BeforeApply  Step = "before apply"
	AfterApply   Step = "after apply"
	BeforeWide   Step = "before wide"
	BeforeCommit Step = "before commit"
	AfterCommit  Step = "after commit"
	BeforeSave   Step = "before save"
	AfterSave    Step = "after save"
)

// Sidecar keeps in memory what a store keeps. Its methods may be used by one
// term at a time; what tests read may be read at any time and is always a
// committed checkpoint.
type Sidecar struct {
	// Fault is asked at every step; its error is what the step returns. Set it
	// while no term runs.
	Fault func(Step) error
	// WideBytes is about how much Wide gives at once; set while no term runs.
	// Default 64 KiB.
	WideBytes int

	busy atomic.Bool // a sink or registry call is under way

	mu          sync.Mutex
	head        millrace.Checkpoint
	sources     []millrace.Source
	tables      []millrace.SourceTable
	definitions []millrace.Definition
	sets        []millrace.RuleSet
	without     map[millrace.DefinitionID][]millrace.SourceID
	copies      map[millrace.CopyID]millrace.Copy
	rereads     map[millrace.Reread]bool
	rows        map[millrace.TableID]map[string]*row
	wide        map[millrace.RowRef][]byte
	content     map[millrace.DefinitionID]map[Identity]string
	reports     map[millrace.SourceID]millrace.SourceReport
	shadows     map[millrace.CopyID]map[string]*millrace.Change
	marks       map[Device]Mark
	events      []millrace.SchemaChange
	recopies    []millrace.Recopy
	puts        int64
	removes     int64
	misled      []string      // by Change.New
	changed     chan struct{} // closed at the next commit
	retired     map[millrace.DefinitionID]bool
	forgotten   map[millrace.TableID]bool
	requests    []millrace.RuleRequest // not answered
	answers     map[int64]millrace.RuleAnswer
	due         map[millrace.RuleSetID]bool // to be retired

	// Of the open transaction; they belong to the term.
	pending     []millrace.Change
	pendingWide map[millrace.RowRef][]byte
}

// Identity names a row in a bucket.
type Identity struct {
	Bucket, Type, RowID, Subkey string
}

// row is what a source row has in the definitions.
type row struct {
	outputs map[output]bool
	lookups map[millrace.Lookup]bool
	errors  map[millrace.DefinitionID]string
}

// Device is whom a custom write checkpoint of an event is for.
type Device struct {
	Definition millrace.DefinitionID
	User       string
}

// Mark is a custom write checkpoint and the checkpoint it came with.
type Mark struct{ ID, Seq int64 }

type output struct {
	definition millrace.DefinitionID
	Identity
}

// New makes an empty sidecar.
func New() *Sidecar {
	return &Sidecar{
		copies:      map[millrace.CopyID]millrace.Copy{},
		rereads:     map[millrace.Reread]bool{},
		rows:        map[millrace.TableID]map[string]*row{},
		without:     map[millrace.DefinitionID][]millrace.SourceID{},
		wide:        map[millrace.RowRef][]byte{},
		content:     map[millrace.DefinitionID]map[Identity]string{},
		reports:     map[millrace.SourceID]millrace.SourceReport{},
		shadows:     map[millrace.CopyID]map[string]*millrace.Change{},
		marks:       map[Device]Mark{},
		changed:     make(chan struct{}),
		retired:     map[millrace.DefinitionID]bool{},
		forgotten:   map[millrace.TableID]bool{},
		answers:     map[int64]millrace.RuleAnswer{},
		due:         map[millrace.RuleSetID]bool{},
		pendingWide: map[millrace.RowRef][]byte{},
	}
}

func (s *Sidecar) fault(step Step) error {
	if s.Fault == nil {
		return nil
	}
	return s.Fault(step)
}

// enter makes concurrent use an error.
func (s *Sidecar) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.busy.Swap(true) {
		return nil, errors.New("the sidecar is used by two goroutines at once")
	}
	return func() { s.busy.Store(false) }, nil
}

// Apply keeps the changes for the commit.
func (s *Sidecar) Apply(ctx context.Context, changes []millrace.Change) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.fault(BeforeApply); err != nil {
		return err
	}
	for i := range changes {
		if err := check(&changes[i]); err != nil {
			return fmt.Errorf("change %d of %d: %w", i, len(changes), err)
		}
		s.keep(&changes[i])
	}
	return s.fault(AfterApply)
}

func check(c *millrace.Change) error {
	switch {
	case c.Scope == nil || c.Scope.Table == 0:
		return errors.New("no table")
	case c.Kind == millrace.ChangeTruncate || c.Kind == millrace.ChangeReplace:
		if c.Key != "" {
			return errors.New("a change of a whole table has a key")
		}
	case c.Key == "":
		return errors.New("no row key")
	}
	if (c.Wide == millrace.WideStore) != (len(c.WideValues) > 0) {
		return errors.New("wide values and action do not agree")
	}
	if !slices.IsSorted(c.Scope.Buckets) || !slices.IsSorted(c.Scope.Lookups) || !slices.IsSorted(c.Scope.Events) {
		return errors.New("scope is not sorted")
	}
	for _, o := range c.Outputs {
		if !slices.Contains(c.Scope.Buckets, o.Definition) {
			return fmt.Errorf("output of definition %d is not in scope", o.Definition)
		}
	}
	for _, l := range c.Lookups {
		if !slices.Contains(c.Scope.Lookups, l.Definition) {
			return fmt.Errorf("lookup of definition %d is not in scope", l.Definition)
		}
	}
	for _, m := range c.Marks {
		if c.Kind != millrace.ChangeUpsert || !slices.Contains(c.Scope.Events, m.Definition) {
			return fmt.Errorf("write checkpoint of definition %d is not in scope", m.Definition)
		}
	}
	return nil
}

// keep copies a change, whose texts the decoder will use again.
func (s *Sidecar) keep(c *millrace.Change) {
	k := *c
	k.Key = strings.Clone(c.Key)
	k.Outputs = slices.Clone(c.Outputs)
	for i := range k.Outputs {
		o := &k.Outputs[i]
		o.Bucket, o.Type, o.RowID = strings.Clone(o.Bucket), strings.Clone(o.Type), strings.Clone(o.RowID)
		o.Subkey, o.Data = strings.Clone(o.Subkey), strings.Clone(o.Data)
	}
	k.Lookups = slices.Clone(c.Lookups)
	for i := range k.Lookups {
		l := &k.Lookups[i]
		l.Key, l.Outputs = strings.Clone(l.Key), strings.Clone(l.Outputs)
	}
	k.Marks = slices.Clone(c.Marks)
	for i := range k.Marks {
		k.Marks[i].User = strings.Clone(k.Marks[i].User)
	}
	k.Errors = slices.Clone(c.Errors)
	k.WideValues = slices.Clone(c.WideValues)
	s.pending = append(s.pending, k)
	ref := millrace.RowRef{Table: k.Scope.Table, Key: k.Key}
	switch {
	case k.Kind == millrace.ChangeReplace:
	case k.Kind == millrace.ChangeTruncate:
		s.mu.Lock()
		for ref := range s.wide {
			if ref.Table == k.Scope.Table {
				s.pendingWide[ref] = nil
			}
		}
		s.mu.Unlock()
		for ref := range s.pendingWide {
			if ref.Table == k.Scope.Table {
				s.pendingWide[ref] = nil
			}
		}
	case k.Kind == millrace.ChangeDelete || k.Wide == millrace.WideDrop:
		s.pendingWide[ref] = nil
	case k.Wide == millrace.WideStore:
		s.pendingWide[ref] = k.WideValues
	}
}

// wideBytes is the default of Sidecar.WideBytes.
const wideBytes = 64 << 10

// Wide gives the kept values as of the changes applied, of the first rows.
func (s *Sidecar) Wide(ctx context.Context, rows []millrace.RowRef) ([][]byte, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.fault(BeforeWide); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var records [][]byte
	size := 0
	for _, ref := range rows {
		record, ok := s.pendingWide[ref]
		if !ok {
			record = s.wide[ref]
		}
		if size += len(record); size > cmp.Or(s.WideBytes, wideBytes) && len(records) > 0 {
			break
		}
		records = append(records, slices.Clone(record))
	}
	return records, nil
}

// Commit makes the flush visible.
func (s *Sidecar) Commit(ctx context.Context, f *millrace.Flush) (millrace.Checkpoint, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return millrace.Checkpoint{}, err
	}
	defer leave()
	if err := s.fault(BeforeCommit); err != nil {
		s.drop()
		return millrace.Checkpoint{}, err
	}
	s.mu.Lock()
	checkpoint, err := s.commit(f)
	s.mu.Unlock()
	s.drop()
	if err != nil {
		return millrace.Checkpoint{}, err
	}
	return checkpoint, s.fault(AfterCommit)
}

// Rollback drops the open transaction.
func (s *Sidecar) Rollback(context.Context) error {
	s.drop()
	return nil
}

func (s *Sidecar) drop() {
	s.pending = nil
	clear(s.pendingWide)
}

func (s *Sidecar) commit(f *millrace.Flush) (millrace.Checkpoint, error) {
	for _, p := range f.Positions {
		i := slices.IndexFunc(s.sources, func(src millrace.Source) bool { return src.ID == p.Source })
		if i < 0 {
			return millrace.Checkpoint{}, fmt.Errorf("position of unknown source %d", p.Source)
		}
		if p.LSN < s.sources[i].Durable {
			return millrace.Checkpoint{}, fmt.Errorf("position of source %d goes back from %v to %v", p.Source, s.sources[i].Durable, p.LSN)
		}
		s.sources[i].Durable = p.LSN
	}
	if f.Activate != 0 && len(s.pending) > 0 {
		return millrace.Checkpoint{}, errors.New("an activation has changes beside it")
	}
	for i := range s.pending {
		s.apply(&s.pending[i])
		for _, m := range s.pending[i].Marks {
			if d := (Device{m.Definition, m.User}); s.marks[d].ID < m.ID {
				s.marks[d] = Mark{m.ID, s.head.Seq + 1}
			}
		}
	}
	for _, t := range f.Tables {
		i := slices.IndexFunc(s.tables, func(o millrace.SourceTable) bool { return o.ID == t.ID })
		if i < 0 {
			return millrace.Checkpoint{}, fmt.Errorf("table %d is unknown", t.ID)
		}
		s.tables[i] = *t
	}
	for _, c := range f.Copies {
		if c.ID == 0 {
			c.ID = millrace.CopyID(len(s.copies) + 1)
			if c.Shadow {
				maps.DeleteFunc(s.wide, func(ref millrace.RowRef, _ []byte) bool { return ref.Table == c.Table })
			}
		}
		stored := *c
		stored.Definitions, stored.WaitFor = slices.Clone(c.Definitions), slices.Clone(c.WaitFor)
		s.copies[c.ID] = stored
	}
	for _, c := range f.SchemaChanges {
		if c.CopyOf != nil {
			s.recopies = append(s.recopies, millrace.Recopy{Table: c.CopyOf.Table, Change: c.Change, At: time.Now()})
			c.Copy, c.CopyOf = c.CopyOf.ID, nil
		}
		s.events = append(s.events, c)
	}
	for _, r := range f.RereadAdd {
		if _, ok := s.copies[r.Copy]; !ok {
			return millrace.Checkpoint{}, fmt.Errorf("re-read of unknown copy %d", r.Copy)
		}
		s.rereads[millrace.Reread{Copy: r.Copy, Key: strings.Clone(r.Key)}] = true
	}
	for _, r := range f.RereadDone {
		delete(s.rereads, r)
	}
	if f.Activate != 0 {
		if err := s.activate(f.Activate); err != nil {
			return millrace.Checkpoint{}, err
		}
	}
	s.head.Seq++
	s.head.At = time.Now()
	close(s.changed)
	s.changed = make(chan struct{})
	return s.head, nil
}

func (s *Sidecar) activate(id millrace.RuleSetID) error {
	i := slices.IndexFunc(s.sets, func(set millrace.RuleSet) bool { return set.ID == id })
	if i < 0 || s.sets[i].State != millrace.RuleSetBuilding {
		return fmt.Errorf("rule set %d cannot be activated", id)
	}
	for _, c := range s.copies {
		if c.RuleSet == id && c.State != millrace.CopyDone {
			return fmt.Errorf("rule set %d is activated while copy %d of table %d is %s", id, c.ID, c.Table, c.State)
		}
	}
	for j := range s.sets {
		if s.sets[j].State == millrace.RuleSetActive {
			s.sets[j].State = millrace.RuleSetRetired
		}
	}
	s.head.OpID++
	s.sets[i].State, s.sets[i].ActiveFrom = millrace.RuleSetActive, s.head.OpID
	return nil
}

// apply folds a change into the content.
func (s *Sidecar) apply(c *millrace.Change) {
	table := s.rows[c.Scope.Table]
	if table == nil {
		table = map[string]*row{}
		s.rows[c.Scope.Table] = table
	}
	if c.Kind == millrace.ChangeReplace {
		s.unveil(c.Scope, table)
		return
	}
	if c.Scope.Shadow != 0 {
		s.applyShadow(c)
		return
	}
	if c.Kind == millrace.ChangeTruncate {
		for key, r := range table {
			s.replace(r, c.Scope, nil)
			s.keepWide(millrace.RowRef{Table: c.Scope.Table, Key: key}, c)
			if r.empty() {
				delete(table, key)
			}
		}
		for ref := range s.wide {
			if ref.Table == c.Scope.Table {
				delete(s.wide, ref)
			}
		}
		return
	}
	s.keepWide(millrace.RowRef{Table: c.Scope.Table, Key: c.Key}, c)
	r := table[c.Key]
	if r == nil {
		r = newRow()
		table[c.Key] = r
	}
	if c.New && r.has(c.Scope) {
		s.misled = append(s.misled, fmt.Sprintf("row %q of table %d is called new, and is there", c.Key, c.Scope.Table))
	}
	s.replace(r, c.Scope, c)
	if r.empty() {
		delete(table, c.Key)
	}
}

// has tells whether the row has anything in the definitions of a scope.
func (r *row) has(scope *millrace.Scope) bool {
	for o := range r.outputs {
		if slices.Contains(scope.Buckets, o.definition) {
			return true
		}
	}
	for l := range r.lookups {
		if slices.Contains(scope.Lookups, l.Definition) {
			return true
		}
	}
	return false
}

func (s *Sidecar) keepWide(ref millrace.RowRef, c *millrace.Change) {
	switch {
	case c.Kind != millrace.ChangeUpsert || c.Wide == millrace.WideDrop:
		delete(s.wide, ref)
	case c.Wide == millrace.WideStore:
		s.wide[ref] = c.WideValues
	}
}

// replace ends what the row has in the scope and the change does not give, and
// puts what it gives (R9). c is nil, or a delete, if it gives nothing.
func (s *Sidecar) replace(r *row, scope *millrace.Scope, c *millrace.Change) {
	now := map[output]string{}
	var lookups []millrace.Lookup
	if c != nil {
		for _, o := range c.Outputs {
			now[output{o.Definition, Identity{o.Bucket, o.Type, o.RowID, o.Subkey}}] = o.Data
		}
		lookups = c.Lookups
	}
	for o := range r.outputs {
		if _, stays := now[o]; !stays && slices.Contains(scope.Buckets, o.definition) {
			delete(r.outputs, o)
			delete(s.content[o.definition], o.Identity)
			s.head.OpID++
			s.removes++
		}
	}
	for o, data := range now {
		if c.Scope.Shadow != 0 && r.outputs[o] && s.content[o.definition][o.Identity] == data {
			continue // of a replaced table: equal rows take no op
		}
		r.outputs[o] = true
		if s.content[o.definition] == nil {
			s.content[o.definition] = map[Identity]string{}
		}
		s.content[o.definition][o.Identity] = data
		s.head.OpID++
		s.puts++
	}
	maps.DeleteFunc(r.lookups, func(l millrace.Lookup, _ bool) bool {
		return slices.Contains(scope.Lookups, l.Definition) && !slices.Contains(lookups, l)
	})
	for _, l := range lookups {
		r.lookups[l] = true
	}
	maps.DeleteFunc(r.errors, func(id millrace.DefinitionID, _ string) bool {
		return slices.Contains(scope.Buckets, id) || slices.Contains(scope.Lookups, id) || slices.Contains(scope.Events, id)
	})
	if c != nil {
		for _, e := range c.Errors {
			r.errors[e.Definition] = strings.Clone(e.Message)
		}
	}
}

func (r *row) empty() bool { return len(r.outputs) == 0 && len(r.lookups) == 0 && len(r.errors) == 0 }
