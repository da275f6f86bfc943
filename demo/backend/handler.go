package backend

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Config of the backend. Pool and Verify are required.
type Config struct {
	// Pool connects to the source database as a role that may write the demo's
	// tables.
	Pool *pgxpool.Pool
	// Verify checks a token and gives its subject, the user's id. It must accept
	// what the relay accepts. It is called concurrently.
	Verify func(token string) (sub string, err error)
	// Logger gets failures that are the server's. Defaults to discarding them.
	Logger *slog.Logger
	// Remember is how many applied transactions are remembered. Defaults to
	// 10,000; negative: none.
	Remember int
}

// requestTimeout bounds the work for one request.
const requestTimeout = 30 * time.Second

// Handler takes uploads. It is safe for concurrent use.
type Handler struct {
	cfg  Config
	seen *memory
}

// New makes a handler for one path.
func New(cfg Config) *Handler {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Remember == 0 {
		cfg.Remember = 10_000
	}
	return &Handler{cfg: cfg, seen: newMemory(max(cfg.Remember, 0))}
}

// ServeHTTP answers uploads and their CORS preflights.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Access-Control-Allow-Origin", "*")
	head.Set("Cache-Control", "no-store")
	switch r.Method {
	case http.MethodOptions:
		head.Set("Access-Control-Allow-Methods", "POST")
		head.Set("Access-Control-Allow-Headers", "Content-Type, Authorization, X-User-Agent")
		head.Set("Access-Control-Max-Age", "3600")
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPost:
		h.upload(w, r)
	default:
		head.Set("Allow", "POST, OPTIONS")
		h.answer(w, &Error{Code: CodeMethod, Status: http.StatusMethodNotAllowed, Description: "uploads are sent by POST"}, nil)
	}
}

// applied is the answer to an upload: the ids of the transactions that are in
// the database now, and what ended the request before the rest.
type applied struct {
	Applied []string `json:"applied"`
	Error   *Error   `json:"error,omitempty"`
}

func (h *Handler) upload(w http.ResponseWriter, r *http.Request) {
	sub, e := h.user(r)
	if e != nil {
		h.answer(w, e, nil)
		return
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			h.answer(w, tooLarge("the body is longer than %d bytes: send fewer transactions", maxBodyBytes), nil)
			return
		}
		h.answer(w, invalid("the body could not be read"), nil)
		return
	}
	req, e := decode(b)
	if e != nil {
		h.answer(w, e, nil)
		return
	}
	done := make([]string, 0, len(req.Transactions))
	for i := range req.Transactions {
		t := &req.Transactions[i]
		if e := h.transaction(r, sub, req.ClientID, t); e != nil {
			id := string(t.ID)
			e.Transaction = &id
			h.answer(w, e, done)
			return
		}
		done = append(done, string(t.ID))
	}
	h.answer(w, nil, done)
}

// user is the verified subject of the request's token.
func (h *Handler) user(r *http.Request) (string, *Error) {
	refused := &Error{Code: CodeUnauthorized, Status: http.StatusUnauthorized, Retryable: true}
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if kind != "Bearer" && kind != "Token" || token == "" {
		refused.Description = `the request has no "Authorization: Bearer <token>"`
		return "", refused
	}
	sub, err := h.cfg.Verify(token)
	switch {
	case err != nil:
		refused.Description = err.Error()
	case sub == "":
		refused.Description = "the token names no user"
	default:
		return sub, nil
	}
	return "", refused
}

// transaction applies one client transaction, unless that is known to be done.
func (h *Handler) transaction(r *http.Request, sub, client string, t *transaction) *Error {
	key := seenKey{}
	if client != "" && t.ID != "" {
		key = keyOf(sub, client, t)
		if h.seen.has(key) {
			return nil
		}
	}
	if err := h.apply(r.Context(), sub, t); err != nil {
		e := classify(err)
		if e.Status >= 500 {
			h.cfg.Logger.Error("apply an upload", "user", sub, "transaction", string(t.ID), "error", err)
		}
		return e
	}
	if key != (seenKey{}) {
		h.seen.add(key)
	}
	return nil
}

func (h *Handler) answer(w http.ResponseWriter, e *Error, done []string) {
	if done == nil {
		done = []string{}
	}
	b, err := json.Marshal(applied{done, e})
	if err != nil {
		h.cfg.Logger.Error("encode an answer", "error", err)
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if e != nil {
		if e.Status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "2")
		}
		w.WriteHeader(e.Status)
	}
	w.Write(b) //nolint:errcheck // whoever asked is gone
}

// keyOf names a transaction by who sent it and what it holds: a client that
// numbers from the start again does not hit an old one.
func keyOf(sub, client string, t *transaction) seenKey {
	sum := sha256.New()
	enc := json.NewEncoder(sum)
	for _, part := range []any{sub, client, t.ID, t.Ops} {
		enc.Encode(part) //nolint:errcheck // what was decoded encodes, and hashes do not fail
	}
	return seenKey(sum.Sum(nil))
}
