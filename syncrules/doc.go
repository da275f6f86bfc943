// Package syncrules compiles the sync rules language into functions over rows
// and requests.
//
// A rules file is YAML that carries queries of a small SQL dialect, either as
// bucket definitions or as streams. Compile turns it into Rules, which serve
// two callers from one object:
//
//   - The decoder binds a source table once (Rules.Bind) and evaluates its rows
//     (Evaluator.Eval) into bucket rows and lookup entries.
//   - The relay resolves a request, that is a verified token, connection
//     parameters and stream subscriptions, into bucket names (Rules.Resolve). Where this needs
//     lookups, the Resolution says which, and is fed their results.
//
// Everything here is pure: no I/O, no clock, no randomness. The same file, row
// and request give the same result everywhere, which is what lets a definition
// be identified by the hash of its meaning.
//
// It imports the root package, the YAML parser and golang.org/x/text; never a
// database driver.
package syncrules
