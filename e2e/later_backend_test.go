package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace/millrace/demo"
)

// marksTable and marksEvent are what custom write checkpoints need.
const (
	marksTable = `CREATE TABLE upload_marks (user_id text, client_id text, checkpoint bigint NOT NULL, PRIMARY KEY (user_id, client_id));`
	marksEvent = `
event_definitions:
  %s:
    payloads:
      - SELECT user_id, client_id, checkpoint FROM upload_marks
`
)

// newLaterDemo is a demo with an event whose backend applies uploads later.
func newLaterDemo(t testing.TB, event string) (*demoSystem, *laterBackend) {
	t.Helper()
	d := newDemo(t, demoOptions{schema: marksTable})
	rules := demo.Rules + fmt.Sprintf(marksEvent, event)
	if err := os.WriteFile(filepath.Join(filepath.Dir(d.config), "sync.yaml"), []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &laterBackend{t: t, d: d, accepted: map[string]int64{}}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	b.url = server.URL
	return d, b
}

// laterBackend accepts what devices upload into a queue, numbers it, and applies
// it when the test says so: the upload in one transaction of the source, its
// number in a later one.
type laterBackend struct {
	t   testing.TB
	d   *demoSystem
	url string

	mu       sync.Mutex
	accepted map[string]int64 // by device
	queue    []laterWork
}

// laterWork is an upload, a number, or both.
type laterWork struct {
	token, user, client string
	upload              []byte // nil: a number alone
	number              int64  // 0: none
}

func (b *laterBackend) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	user, err := b.d.key.Verify(token)
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var message struct {
		Client  string `json:"client_id"`
		Request string `json:"checkpoint_request_id"`
	}
	if err := json.Unmarshal(body, &message); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	work := laterWork{token: token, user: user, client: message.Client, upload: body}
	device := user + "/" + message.Client
	switch {
	case req.URL.Path == "/checkpoint": // a number that the client chose
		if work.number, err = strconv.ParseInt(message.Request, 10, 64); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		work.upload = nil
		b.accepted[device] = max(b.accepted[device], work.number)
	case req.URL.Query().Get("numbers") != "client":
		b.accepted[device]++
		work.number = b.accepted[device]
	}
	b.queue = append(b.queue, work)
	fmt.Fprintf(w, `{"checkpoint": "%d"}`, b.accepted[device])
}

// waiting counts what is accepted and not applied.
func (b *laterBackend) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue)
}

// apply takes the oldest work to the source; between is called when the upload is
// committed and its number is not. It gives false if there is nothing to do.
func (b *laterBackend) apply(ctx context.Context, between func()) (bool, error) {
	b.mu.Lock()
	if len(b.queue) == 0 {
		b.mu.Unlock()
		return false, nil
	}
	w := b.queue[0]
	b.queue = b.queue[1:]
	b.mu.Unlock()
	if w.upload != nil {
		if err := b.forward(ctx, w); err != nil {
			return false, err
		}
	}
	between()
	if w.number == 0 {
		return true, nil
	}
	conn, err := connectAs(ctx, b.d.sourceURI, "later backend")
	if err != nil {
		return false, err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, `INSERT INTO upload_marks VALUES ($1, $2, $3) ON CONFLICT (user_id, client_id) DO UPDATE SET checkpoint = excluded.checkpoint`, w.user, w.client, w.number)
	return true, err
}

func (b *laterBackend) forward(ctx context.Context, w laterWork) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.d.uploadURL, bytes.NewReader(w.upload))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the demo's backend answers %d %s", resp.StatusCode, text)
	}
	return err
}

// applyAll applies what waits and what comes until stop is closed.
func (b *laterBackend) applyAll(stop <-chan struct{}, pause func() time.Duration) error {
	ctx := context.Background()
	for {
		worked, err := b.apply(ctx, func() { time.Sleep(pause()) })
		if err != nil {
			return errors.Join(errors.New("apply an upload"), err)
		}
		wait := pause()
		if !worked {
			wait = 10 * time.Millisecond
		}
		select {
		case <-stop:
			if b.waiting() == 0 {
				return nil
			}
		case <-time.After(wait):
		}
	}
}
