package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/clientsdk"
	"github.com/millrace/millrace/internal/pgtest"
)

// device is a Go client of the demo: a local database of a user, in sync
// through the real server and uploading through the demo's backend.
type device struct {
	t         testing.TB
	d         *demoSystem
	name      string
	user      string
	path      string
	transport clientsdk.Transport
	db        *clientsdk.DB

	mu      sync.Mutex
	uploads map[int64]int // by local transaction, how often its upload was answered with success
}

var demoSchema = clientsdk.Schema{Tables: []clientsdk.Table{
	{Name: "lists", Columns: []clientsdk.Column{{Name: "name"}, {Name: "owner_id"}, {Name: "created_at"}}},
	{Name: "todos", Columns: []clientsdk.Column{{Name: "list_id"}, {Name: "title"}, {Name: "completed", Type: clientsdk.Integer},
		{Name: "created_by"}, {Name: "created_at"}, {Name: "completed_at"}}},
	{Name: "list_members", Columns: []clientsdk.Column{{Name: "list_id"}, {Name: "user_id"}}},
}}

// newDevice opens a device that is offline. It is closed with the test.
func newDevice(t testing.TB, d *demoSystem, name, user string, transport clientsdk.Transport) *device {
	t.Helper()
	v := &device{t: t, d: d, name: name, user: user, transport: transport, path: filepath.Join(t.TempDir(), name+".db"), uploads: map[int64]int{}}
	v.open()
	t.Cleanup(func() {
		if err := v.db.Close(); err != nil {
			t.Errorf("close %s: %v", v.name, err)
		}
	})
	return v
}

func (v *device) open() {
	v.t.Helper()
	var err error
	if v.db, err = clientsdk.Open(v.t.Context(), clientsdk.Options{Path: v.path, Schema: demoSchema}); err != nil {
		v.t.Fatal(err)
	}
}

// connect brings the device online.
func (v *device) connect() {
	v.t.Helper()
	err := v.db.Connect(v, clientsdk.ConnectOptions{Transport: v.transport, RetryMin: 50 * time.Millisecond, RetryMax: time.Second})
	if err != nil {
		v.t.Fatal(err)
	}
}

// FetchCredentials implements clientsdk.Connector.
func (v *device) FetchCredentials(context.Context) (clientsdk.Credentials, error) {
	token, err := v.d.key.Sign(v.user, nil, time.Hour, time.Now())
	return clientsdk.Credentials{Endpoint: v.d.url, Token: token}, err
}

// UploadData implements clientsdk.Connector as an app would.
func (v *device) UploadData(ctx context.Context, db *clientsdk.DB) error {
	client, err := db.ClientID(ctx)
	if err != nil {
		return err
	}
	for {
		tx, err := db.NextTransaction(ctx)
		if err != nil || tx == nil {
			return err
		}
		if err := v.upload(ctx, client, tx); err != nil {
			return err
		}
		v.mu.Lock()
		v.uploads[tx.ID]++
		v.mu.Unlock()
		if err := tx.Complete(ctx); err != nil {
			return err
		}
	}
}

func (v *device) upload(ctx context.Context, client string, tx *clientsdk.UploadTransaction) error {
	type transaction struct {
		ID  string               `json:"id"`
		Ops []clientsdk.UploadOp `json:"ops"`
	}
	body, err := json.Marshal(map[string]any{"client_id": client, "transactions": []transaction{{strconv.FormatInt(tx.ID, 10), tx.Ops}}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.d.uploadURL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	token, err := v.d.key.Sign(v.user, nil, time.Hour, time.Now())
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the backend answers %d %s", resp.StatusCode, text)
		if resp.StatusCode < 500 {
			v.t.Errorf("%s: transaction %d: %v", v.name, tx.ID, err)
		}
	}
	return err
}

// uploaded tells how many local transactions were uploaded, and fails the test
// for one that was twice.
func (v *device) uploaded() int {
	v.t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, n := range v.uploads {
		if n != 1 {
			v.t.Errorf("%s: transaction %d was uploaded %d times", v.name, id, n)
		}
	}
	return len(v.uploads)
}

// shown is what the device shows.
func (v *device) shown(ctx context.Context) (rowSet, error) {
	rows, err := v.db.Query(ctx, shownRows)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := rowSet{}
	for rows.Next() {
		var key, data string
		if err := rows.Scan(&key, &data); err != nil {
			return nil, err
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("%s shows %s twice", v.name, key)
		}
		out[key] = canonical(data)
	}
	return out, rows.Err()
}

// mustShow is shown for an open database.
func (v *device) mustShow() rowSet {
	v.t.Helper()
	out, err := v.shown(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	return out
}

// inSync waits until the device has uploaded everything and shows exactly what
// the source gives its user.
func (v *device) inSync(timeout time.Duration) {
	v.t.Helper()
	pgtest.Eventually(v.t, timeout, func() error {
		ctx := v.t.Context()
		queue, err := v.db.UploadQueue(ctx, 10)
		if err != nil {
			return err
		}
		s := v.db.Status()
		explain := func(err error) error {
			return fmt.Errorf("%s: %w; held %v, uploading %v, connected %v, download error: %v, upload error: %v",
				v.name, err, s.Held, s.Uploading, s.Connected, s.DownloadError, s.UploadError)
		}
		if len(queue) > 0 {
			return explain(fmt.Errorf("transaction %d waits for upload, after %d attempts: %s", queue[0].Transaction, queue[0].Attempts, queue[0].LastError))
		}
		if s.Held {
			return explain(errors.New("a newer state is held back"))
		}
		want, err := entitledTo(ctx, v.d.sourceURI, v.user)
		if err != nil {
			return explain(err)
		}
		got, err := v.shown(ctx)
		if err == nil {
			err = got.mustEqual(want)
		}
		if err != nil {
			return explain(err)
		}
		return nil
	})
}
