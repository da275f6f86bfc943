package millrace

// RuleRequestKind is what a person asks of the rules in force.
type RuleRequestKind string

// The kinds of requests.
const (
	RequestDeploy   RuleRequestKind = "deploy"   // put a content in force
	RequestRollback RuleRequestKind = "rollback" // go back to an earlier rule set
)

// RuleRequest is a change of the rules that a person asked for. It is stored in
// the sidecar; the decoder that leads answers it.
type RuleRequest struct {
	ID      int64
	Kind    RuleRequestKind
	Content string    // of the rules file; empty for a roll-back
	File    string    // its name, for people
	Target  RuleSetID // the rule set to go back to; 0: the one before
}

// RuleAnswer is what becomes of a RuleRequest. At most one of Refused and Deploy
// is set; with neither, nothing is deployed and RuleSet is what holds.
type RuleAnswer struct {
	Request int64
	// Message is the answer in words, for the person who asked.
	Message string
	// Refused: nothing changes, for the reason that Message gives.
	Refused bool
	// Superseded: a later request is answered in its place.
	Superseded bool
	// Abandon gives up the rule set being built.
	Abandon bool
	// RuleSet is what the request led to, where nothing is deployed.
	RuleSet RuleSetID
	// Deploy is stored as a new rule set being built, in place of one that is,
	// in the same transaction as the answer. Its Content and Definitions count.
	Deploy *RuleSet
	// RollsBack is the rule set that Deploy repeats; 0 for none.
	RollsBack RuleSetID
}
