package millrace

// DefinitionID names a bucket or lookup definition by content: a definition
// row has a hash of its normalised meaning, and history belongs to it rather
// than to a deploy. Serial, never reused.
type DefinitionID int32

// DefinitionKind says what a definition produces.
type DefinitionKind string

// The kinds of definitions.
const (
	BucketDefinition DefinitionKind = "bucket" // rows of buckets
	LookupDefinition DefinitionKind = "lookup" // a parameter index
	EventDefinition  DefinitionKind = "event"  // custom write checkpoints
)

// Definition is a row of the sidecar's definitions.
type Definition struct {
	ID   DefinitionID
	Kind DefinitionKind
	// Key names the definition inside a compiled rules file, for example
	// "bucket:by_owner", "lookup:by_owner/1" or "event:write_checkpoints";
	// unique within a rule set.
	Key string
	// Name is what people read: the bucket definition, stream or event it came
	// from.
	Name string
	// Hash covers the normalised meaning, including the versions of the
	// functions, casts and type mappings it uses. Lower-case hex.
	Hash string
	// WirePrefix is the short random text that starts the wire names of this
	// definition's buckets: "<wire prefix>#<logical name>". Empty for others.
	WirePrefix string
}

// RuleSetID numbers deploys of rules, from 1.
type RuleSetID int32

// RuleSetState is where a rule set stands.
type RuleSetState string

// The states. A set goes from building to active, retired and dropped, or from
// building to abandoned.
const (
	RuleSetBuilding RuleSetState = "building" // its new definitions are being copied; nothing of it is served
	RuleSetActive   RuleSetState = "active"   // in force since ActiveFrom
	RuleSetRetired  RuleSetState = "retired"  // replaced, still fed until it is dropped

	RuleSetDropped   RuleSetState = "dropped"   // replaced and no longer fed
	RuleSetAbandoned RuleSetState = "abandoned" // replaced before it was built
)

// RuleSet is one deployed content of the rules file and the definitions it
// maps to. The set in force at checkpoint C is the one with the greatest
// ActiveFrom ≤ C.
type RuleSet struct {
	ID          RuleSetID
	Content     string
	State       RuleSetState
	ActiveFrom  OpID // 0 until activated
	Definitions []Definition
	// Without lists, by definition, the sources whose present history is
	// another than the one it has rows of: nothing of theirs goes into it.
	Without map[DefinitionID][]SourceID
}

// Hashes gives the hashes of the definitions by key.
func (s *RuleSet) Hashes() map[string]string {
	hashes := make(map[string]string, len(s.Definitions))
	for _, d := range s.Definitions {
		hashes[d.Key] = d.Hash
	}
	return hashes
}
