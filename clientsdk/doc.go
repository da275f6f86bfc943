// Package clientsdk keeps a user's part of a Millrace system in a local SQLite
// database: it downloads the buckets the user's token grants, shows them
// through views of the app's own schema, applies local writes at once, uploads
// them in whole transactions, and survives being offline, killed and restarted
// at any point.
//
//	db, err := clientsdk.Open(ctx, clientsdk.Options{Path: "app.db", Schema: schema})
//	err = db.Connect(connector)          // from now on in sync whenever online
//	_, err = db.Execute(ctx, `INSERT INTO todos(id, title) VALUES (?, ?)`, id, "Buy milk")
//	for rows, err := range db.Watch(ctx, `SELECT title FROM todos ORDER BY title`) { … }
//
// Reads never wait for the network or for writes. What they see moves in
// atomic steps: from one checkpoint of the server to the next, with the
// device's own writes on top until the server's state contains them.
//
// The parts: a pure state machine decides what to do (internal/machine, its
// transition table is in SPEC.md), a transport carries lines (internal/transport:
// native WebSocket or HTTP), this package stores them and runs the app's upload
// function. All methods of DB may be called from any number of goroutines. One
// process at a time may have a database file open.
package clientsdk
