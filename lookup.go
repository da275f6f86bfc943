package millrace

// Lookup is one entry of a parameter index, made from one source row: whoever
// asks the lookup definition for Key gets Outputs. An entry is in force at
// checkpoint C iff added ≤ C < removed.
type Lookup struct {
	Definition DefinitionID
	// Key is the canonical JSON array text of the matched values (`["u1",7]`).
	// Only the rules compiler makes and reads it; to the store it is text.
	Key string
	// Outputs is the JSON text of the values a match yields.
	Outputs string
}
