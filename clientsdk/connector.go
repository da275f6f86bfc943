package clientsdk

import "context"

// Credentials let a device reach the server.
type Credentials struct {
	// Endpoint is the server's base URL, "https://sync.example.com".
	Endpoint string
	// Token is a JWT the server accepts.
	Token string
}

// Connector is the app's part of being in sync. Its methods run in goroutines
// of the DB, at most one call of each at a time, and return when ctx ends. They may
// use the DB, but not connect, disconnect or close it.
type Connector interface {
	// FetchCredentials gives credentials, usually by asking the app's backend.
	// It is called at the first connection, shortly before the token expires,
	// after the server refused it, and when the server has not been reached
	// several times. An error, or being offline, is no
	// tragedy: the local database works on, and it is called again later.
	FetchCredentials(ctx context.Context) (Credentials, error)
	// UploadData sends the waiting transactions to the app's backend: take
	// db.NextTransaction, send it, Complete it, until there is none. It is
	// called when something waits. On an error it is called again after a
	// growing delay. A transaction the backend will never accept must be
	// completed or rejected, or nothing behind it gets through.
	UploadData(ctx context.Context, db *DB) error
}

// Transport is how lines reach a device.
type Transport uint8

// The transports.
const (
	// Auto takes the WebSocket, and HTTP for the rest of the connection if the
	// server, or something before it, does not let it through.
	Auto Transport = iota
	WebSocket
	HTTP
)
