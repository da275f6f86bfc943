// Package inspect answers the questions people ask about rules and data: what
// would this user get (Simulate), why is this row (not) on that device, is what
// the sidecar holds what the source has? It works on compiled rules, reads the
// sources and the sidecar, and never writes anywhere. It does not import the
// relay.
package inspect
