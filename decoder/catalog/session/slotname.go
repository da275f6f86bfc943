package session

import "strings"

// SlotName writes a slot's name for a replication command. It is always
// quoted: that grammar has keywords of its own ("slot", "logical", "wait").
func SlotName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
