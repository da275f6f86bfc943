package catalog

import "fmt"

// Level is how far a finding reaches.
type Level string

// The levels.
const (
	Fatal      Level = "fatal"       // nothing can be replicated from the source
	FatalTable Level = "fatal-table" // this table cannot be replicated
	Warn       Level = "warn"
)

// Finding is something about a source that a person has to know or to change.
type Finding struct {
	Code    string // MR1003, …: stable
	Level   Level
	Object  string // what it is about: a table "schema.name", a role, a setting
	Message string // one sentence
	Repair  string // SQL or action that cures it; empty where there is none
}

// String is the finding on one line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s %s: %s", f.Code, f.Object, f.Message)
	if f.Repair != "" {
		s += "; to repair: " + f.Repair
	}
	return s
}

// Error makes findings that stop something usable as errors.
func (f Finding) Error() string { return f.String() }
