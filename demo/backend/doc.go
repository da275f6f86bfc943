// Package backend is the to-do demo's own server: it takes the writes devices
// upload, checks that their user may make them, and applies them to the source
// database. It stands for the backend every app brings itself; Millrace only
// sees what it writes.
//
// POST with "Authorization: Bearer <the user's token>" and
//
//	{"client_id": "…", "transactions": [{"id": "7", "ops": [{"op": "PUT", "type": "todos", "id": "…", "data": {…}}]}]}
//
// or {"batch": [op, …]} for a single transaction. Each client transaction is
// one source transaction, in order; the first that fails ends the request, and
// the answer names it and what was applied before.
//
// Sending a transaction again is harmless. PUT inserts or replaces the columns
// given, PATCH and DELETE of a row that is gone do nothing. Beyond that the last
// applied transactions are remembered in memory by user, client and id, so that
// one re-sent because its answer was lost does not overwrite what others wrote
// since. The memory does not outlive the process, because the demo keeps no
// table that the app's schema does not have; a backend that may not repeat an
// effect stores that key in the same transaction.
package backend
