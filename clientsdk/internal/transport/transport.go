package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

// Limits and times. A row may have about 16 MB; a line has at least one.
const (
	MaxLineBytes  = 64 << 20
	MaxFrameBytes = 64 << 20
	creditBytes   = 8 << 20
	maxErrorBody  = 64 << 10
	dialTimeout   = 20 * time.Second
	sendTimeout   = 15 * time.Second
	// DefaultSilence is how long a stream may say nothing: servers speak every
	// 20 s at least.
	DefaultSilence = 50 * time.Second
)

// Request is what a stream is opened with.
type Request struct {
	protocol.Request
	StreamsVersion int64
}

// Stream is an open stream. Next and Send may be called by one goroutine each;
// Close by any, once or more.
type Stream interface {
	// Next gives the next line. An error is final and an *Error.
	Next(ctx context.Context) (protocol.Line, error)
	// InBand tells whether Send is possible.
	InBand() bool
	// Send sends a message to the server.
	Send(ctx context.Context, f protocol.Frame) error
	// Close ends the stream and frees it.
	Close()
}

// Error says why a stream ended or could not be opened.
type Error struct {
	Reason machine.EndReason
	// Unavailable: the endpoint does not speak this transport; another may do.
	Unavailable bool
	Err         error
}

// Error gives the cause's text.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason is the EndReason of an error: EndLost unless it says otherwise.
func Reason(err error) machine.EndReason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return machine.EndLost
}

// Unavailable tells whether another transport should be tried.
func Unavailable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Unavailable
}

func failed(reason machine.EndReason, format string, args ...any) error {
	return &Error{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// Client speaks to one server.
type Client struct {
	Endpoint  string // "https://sync.example.com", with or without a path
	HTTP      *http.Client
	UserAgent string
	Silence   time.Duration
}

func (c *Client) url(path string) (string, error) {
	u, err := url.Parse(strings.TrimRight(c.Endpoint, "/"))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", failed(machine.EndProtocol, "endpoint %q is not an http or https URL", c.Endpoint)
	}
	return u.JoinPath(path).String(), nil
}

func (c *Client) request(ctx context.Context, method, path, token string, body io.Reader) (*http.Request, error) {
	u, err := c.url(path)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, failed(machine.EndProtocol, "%s %s: %w", method, u, err)
	}
	r.Header.Set("Authorization", "Token "+token)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", c.UserAgent)
	r.Header.Set("X-User-Agent", c.UserAgent)
	return r, nil
}

// refused turns an answer that is no success into an error, with the server's
// own words.
func refused(res *http.Response) error {
	b, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorBody)) // what could be read is shown
	words := strings.TrimSpace(string(b))
	var code protocol.Code
	if e, err := protocol.DecodeErrorBody(b); err == nil {
		code, words = e.Code, fmt.Sprintf("%s: %s", e.Code, e.Description)
	}
	if len(words) > 500 {
		words = words[:500] + "…"
	}
	err := fmt.Errorf("%s %s: %s: %s", res.Request.Method, res.Request.URL.Path, res.Status, words)
	return &Error{Reason: statusReason(res.StatusCode, code), Err: err}
}

func statusReason(status int, code protocol.Code) machine.EndReason {
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden, strings.HasPrefix(string(code), "PSYNC_S21"):
		return machine.EndUnauthorized
	case status == http.StatusTooManyRequests:
		return machine.EndOverloaded
	case status == http.StatusServiceUnavailable:
		return machine.EndRestarting
	case status >= 400 && status < 500:
		return machine.EndProtocol
	}
	return machine.EndLost
}

// WriteCheckpoint asks for a write checkpoint over HTTP.
func (c *Client) WriteCheckpoint(ctx context.Context, token, clientID string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Silence)
	defer cancel()
	r, err := c.request(ctx, http.MethodGet, protocol.PathWriteCheckpoint, token, nil)
	if err != nil {
		return 0, err
	}
	r.URL.RawQuery = url.Values{"client_id": {clientID}}.Encode()
	res, err := c.HTTP.Do(r)
	if err != nil {
		return 0, failed(machine.EndLost, "ask for a write checkpoint: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, refused(res)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
	if err != nil {
		return 0, failed(machine.EndLost, "ask for a write checkpoint: %w", err)
	}
	id, err := protocol.DecodeWriteCheckpoint(b)
	if err != nil {
		return 0, failed(machine.EndProtocol, "answer with a write checkpoint: %w", err)
	}
	return id, nil
}
