package relay

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/relay/auth"
)

func (r *Relay) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+protocol.PathStream, r.serveStream)
	mux.HandleFunc("GET "+protocol.PathStream, r.serveRSocket)
	mux.HandleFunc("GET "+protocol.PathWebSocket, r.serveWebSocket)
	mux.HandleFunc("GET "+protocol.PathWriteCheckpoint, r.traced("relay.write_checkpoint", r.serveWriteCheckpoint))
	mux.HandleFunc("GET "+protocol.PathOldWriteCheckpoint, r.traced("relay.write_checkpoint", r.serveOldWriteCheckpoint))
	mux.HandleFunc("POST "+protocol.PathCheckpointRequest, r.traced("relay.write_checkpoint", r.serveCheckpointRequest))
	mux.HandleFunc("/", noRoute)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		h := w.Header()
		// On every answer, errors included: else browsers hide the status.
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Expose-Headers", "Content-Type")
		if req.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST")
			h.Set("Access-Control-Allow-Headers", "Content-Type, Authorization, User-Agent, X-User-Agent, Traceparent, Tracestate")
			h.Set("Access-Control-Max-Age", "3600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		if r.admit(w, req) {
			mux.ServeHTTP(w, req)
		}
	})
}

func noRoute(w http.ResponseWriter, req *http.Request) {
	writeError(w, ending{code: protocol.CodeNoRoute, status: http.StatusNotFound, text: "there is no " + req.Method + " " + req.URL.Path})
}

// writeError answers with an error body.
func writeError(w http.ResponseWriter, e ending) {
	if e.status == 0 {
		e.status = http.StatusInternalServerError
	}
	if e.passes() {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter()))
	}
	w.Header().Set("Content-Type", "application/json")
	body := protocol.ErrorBody{Code: e.code, Status: e.status, Description: e.text}
	w.WriteHeader(e.status)
	w.Write(append(body.AppendJSON(nil), '\n'))
}

// passes tells whether it is worth to come back.
func (e ending) passes() bool {
	return e.status == http.StatusServiceUnavailable || e.status == http.StatusTooManyRequests
}

// retryAfter is in how many seconds a client may come back: a fleet that was
// refused together must not come back together.
func retryAfter() int { return 2 + rand.IntN(9) }

// reason is what is told of an ending where there are no headers, at most so
// many bytes.
func (e ending) reason(limit int) string {
	hint := ""
	if e.passes() {
		hint = "; retry in " + strconv.Itoa(retryAfter()) + " s"
	}
	return strings.ToValidUTF8(e.text[:max(min(len(e.text), limit-len(hint)), 0)], "") + hint
}

// asEnding turns any error into what the client is told.
func (r *Relay) asEnding(err error) ending {
	var e ending
	var denied *auth.Error
	var malformed *protocol.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &denied):
		r.meters.denied.WithLabelValues(string(denied.Code)).Inc()
		r.log.Debug("a token was refused", "code", denied.Code, "why", denied.Description)
		return ending{code: denied.Code, status: denied.Status(), close: protocol.CloseUnauthorized, text: denied.Description}
	case errors.As(err, &malformed):
		return ending{code: protocol.CodeInvalid, status: http.StatusBadRequest, close: protocol.CloseMalformed, text: malformed.Error()}
	case errors.Is(err, ErrUnavailable), errors.Is(err, errBusy), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ending{code: protocol.CodeRestarting, status: http.StatusServiceUnavailable, close: protocol.CloseOverloaded, text: "the sidecar cannot be reached at the moment; try again"}
	}
	r.log.Error("serving a request", "error", err)
	return ending{code: protocol.CodeInvalid, status: http.StatusInternalServerError, close: protocol.CloseOverloaded, text: "internal error; the server's log says more"}
}

// authorize verifies the Authorization header.
func (r *Relay) authorize(req *http.Request) (*auth.Token, error) {
	value := req.Header.Get("Authorization")
	if value == "" {
		return nil, &auth.Error{Code: protocol.CodeNoToken, Description: "no Authorization header; send Authorization: Bearer <token>"}
	}
	return r.verify(req.Context(), value)
}

// verify verifies the value of an Authorization header.
func (r *Relay) verify(ctx context.Context, value string) (*auth.Token, error) {
	scheme, token, _ := strings.Cut(value, " ")
	if scheme != "Token" && scheme != "Bearer" || token == "" || strings.ContainsAny(token, " \t\r\n\f\v") {
		return nil, &auth.Error{Code: protocol.CodeUnauthorized, Description: "the Authorization header is neither Bearer <token> nor Token <token>"}
	}
	return r.verifyToken(ctx, token)
}

// body reads the request's body. It is called for authorised requests only:
// nobody else may make the server read one.
func (r *Relay) body(w http.ResponseWriter, req *http.Request, limit int64) ([]byte, error) {
	// A server's own timeout is for strangers.
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(bodyWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return nil, err
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, ending{code: protocol.CodeInvalid, status: http.StatusRequestEntityTooLarge, text: "the request is larger than " + strconv.FormatInt(limit, 10) + " bytes (relay.max_request_bytes)"}
	case err != nil:
		return nil, ending{code: protocol.CodeInvalid, status: http.StatusBadRequest, text: "the request's body could not be read"}
	}
	return b, nil
}

// bodyWait is how long an authorised client may take to send its request.
const bodyWait = 2 * time.Minute

// agentOf prefers what SDKs say of themselves: browsers cannot set User-Agent.
func agentOf(req *http.Request) string {
	a := req.Header.Get("X-User-Agent")
	if a == "" {
		a = req.UserAgent()
	}
	return agentText(a)
}

// agentText bounds what a client says of itself.
func agentText(a string) string { return strings.ToValidUTF8(a[:min(len(a), 200)], "") }

// smallBody bounds requests that hold a few fields.
const smallBody = 1 << 20

func (r *Relay) serveWriteCheckpoint(w http.ResponseWriter, req *http.Request) {
	token, err := r.authorize(req)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	client, err := clientIDOf(req)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	r.answerWrite(w, req, token, client, 0, protocol.AppendWriteCheckpoint)
}

// clientIDOf reads the device from the query.
func clientIDOf(req *http.Request) (string, error) {
	client := req.URL.Query().Get("client_id")
	if err := protocol.CheckClientID(client); err != nil {
		return "", ending{code: protocol.CodeInvalid, status: http.StatusBadRequest, text: "client_id: " + err.Error()}
	}
	return client, nil
}

func (r *Relay) serveCheckpointRequest(w http.ResponseWriter, req *http.Request) {
	token, err := r.authorize(req)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	body, err := r.body(w, req, smallBody)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	client, id, err := protocol.DecodeCheckpointRequest(body)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	r.answerWrite(w, req, token, client, id, protocol.AppendCheckpointRequestAnswer)
}

func (r *Relay) answerWrite(w http.ResponseWriter, req *http.Request, token *auth.Token, client string, id int64, answer func([]byte, int64) []byte) {
	if id == 0 {
		r.noteUnasked(req.Context())
	}
	held, err := r.requestWrite(req.Context(), writeUser(token.Subject, client), id)
	if err != nil {
		writeError(w, r.asEnding(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(answer(nil, held), '\n'))
}
