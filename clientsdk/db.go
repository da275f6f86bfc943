package clientsdk

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/clientsdk/internal/transport"
)

// ErrClosed is given by what waits on a DB that is closed.
var ErrClosed = errors.New("the database is closed")

// Options say how to open a database. Only Path is required.
type Options struct {
	// Path of the SQLite file; created where missing.
	Path string
	// Schema is the app's view of the data.
	Schema Schema
	// Driver is the name of a registered database/sql driver of SQLite 3.38 or
	// later; import it. Defaults to "sqlite", modernc.org/sqlite.
	Driver string
	// Readers is how many queries may run at a time. Defaults to 4.
	Readers int
	// Logger gets what happens to the connection, without tokens or data.
	// Defaults to discarding it.
	Logger *slog.Logger
}

// DB is a local database, in sync while connected. See the package comment.
type DB struct {
	store  *store
	schema atomic.Pointer[Schema]
	log    *slog.Logger
	board  *board
	tables *tableSignal
	subs   subscriptions
	http   *http.Client
	closed chan struct{} // closed by Close

	engine atomic.Pointer[engine] // while connected; replaced under mu

	mu   sync.Mutex
	done bool // Close was called
}

// Open opens the database at a path, creating it where missing, and makes the
// views of the schema. Close it.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Path == "" {
		return nil, errors.New("open the local database: no path")
	}
	if o.Driver == "" {
		o.Driver = "sqlite"
	}
	if o.Readers <= 0 {
		o.Readers = 4
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := openStore(ctx, o.Driver, o.Path, o.Readers, newClientID, func() int64 { return time.Now().UnixMilli() })
	if err != nil {
		return nil, err
	}
	db := &DB{store: s, log: o.Logger, board: newBoard(), tables: newTableSignal(), closed: make(chan struct{}),
		http: &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}}
	db.subs.held, db.subs.version = map[streamKey]int{}, 1
	db.schema.Store(&o.Schema)
	s.changed = db.noteChanges
	err = s.applySchema(ctx, &o.Schema)
	if err == nil {
		err = s.adoptStreams(ctx)
	}
	if err == nil {
		err = db.loadSynced(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", o.Path, err), s.close())
	}
	return db, nil
}

// newClientID is a random UUID.
func newClientID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// ClientID is the device's random name, made with the file. With the user's id
// it is what the server counts write checkpoints by.
func (db *DB) ClientID(ctx context.Context) (id string, err error) {
	err = db.store.readers.QueryRowContext(ctx, `SELECT client_id FROM mr_state`).Scan(&id)
	return id, err
}

// ConnectOptions tune a connection. The zero value is right for most.
type ConnectOptions struct {
	// Transport defaults to Auto.
	Transport Transport
	// Parameters are the client parameters the sync rules may use; unverified.
	Parameters map[string]any
	// SkipDefaults leaves out streams that are given without asking.
	SkipDefaults bool
	// AppMetadata is shown by the server in its list of sessions.
	AppMetadata map[string]string
	// RetryMin and RetryMax bound the wait between tries, which doubles with
	// each failure in a row, less up to half of it at random. Default to 1 s
	// and 1 min.
	RetryMin, RetryMax time.Duration
	// TrustOpChecksums skips recomputing the checksum of each op, for servers
	// with another function than Millrace's. Sums per bucket are compared in
	// any case.
	TrustOpChecksums bool
	// Silence is how long the server may say nothing before the connection
	// counts as lost. Defaults to 50 s.
	Silence time.Duration
	// HTTPClient makes the requests, with its proxies and certificates; it must
	// have no Timeout. Defaults to one of the DB's own.
	HTTPClient *http.Client
}

// Connect begins to keep the database in sync, in the background, until
// Disconnect or Close. It returns at once, also offline: see Status. Called
// again, it replaces the connection.
func (db *DB) Connect(c Connector, o ConnectOptions) error {
	if o.RetryMin <= 0 {
		o.RetryMin = time.Second
	}
	if o.RetryMax < o.RetryMin {
		o.RetryMax = max(time.Minute, o.RetryMin)
	}
	if o.Silence <= 0 {
		o.Silence = transport.DefaultSilence
	}
	if o.HTTPClient == nil {
		o.HTTPClient = db.http
	}
	e, err := newEngine(db, c, o)
	if err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.done {
		return ErrClosed
	}
	if old := db.engine.Swap(e); old != nil {
		old.stop()
	}
	e.start()
	return nil
}

// Reconnect ends a wait between tries, for apps that learn that the network is
// back. It does nothing otherwise.
func (db *DB) Reconnect() {
	if e := db.engine.Load(); e != nil {
		e.retryNow()
	}
}

// Disconnect stops keeping the database in sync, and waits until nothing of it
// runs any more. Data and upload queue stay.
func (db *DB) Disconnect() {
	db.mu.Lock()
	defer db.mu.Unlock()
	if e := db.engine.Swap(nil); e != nil {
		e.stop()
	}
}

// DisconnectAndClear is for a user who logs out: it disconnects and deletes
// everything synced, the upload queue and the subscriptions; what was not
// uploaded is lost. Local-only rows go too unless keepLocal.
func (db *DB) DisconnectAndClear(ctx context.Context, keepLocal bool) error {
	db.Disconnect()
	if err := db.store.clear(ctx, keepLocal); err != nil {
		return fmt.Errorf("clear the local database: %w", err)
	}
	db.subs.mu.Lock()
	clear(db.subs.held)
	db.subs.version++
	db.subs.mu.Unlock()
	return db.loadSynced(ctx)
}

// Close disconnects and closes the file, waiting for everything of the DB that
// runs. Using the DB afterwards gives errors.
func (db *DB) Close() error {
	db.mu.Lock()
	if db.done {
		db.mu.Unlock()
		return nil
	}
	db.done = true
	if e := db.engine.Swap(nil); e != nil {
		e.stop()
	}
	db.mu.Unlock()
	close(db.closed)
	db.http.CloseIdleConnections()
	return db.store.close()
}

// UpdateSchema replaces the views by those of another schema. No data moves.
func (db *DB) UpdateSchema(ctx context.Context, sc Schema) error {
	if err := db.store.applySchema(ctx, &sc); err != nil {
		return err
	}
	db.schema.Store(&sc)
	return nil
}

// wake tells the engine to look at what the app wants.
func (db *DB) wake() {
	if e := db.engine.Load(); e != nil {
		e.wake()
	}
}

// noteChanges is told after each commit that changed tables.
func (db *DB) noteChanges(types []string, local bool) {
	db.tables.notify(types)
	if local {
		db.wake()
	}
}

// retryFrom is the backoff of a connection.
func retryFrom(o *ConnectOptions) machine.Backoff {
	return machine.Backoff{Min: o.RetryMin, Max: o.RetryMax}
}
