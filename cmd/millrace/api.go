package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/inspect"
	"github.com/millrace/millrace/protocol"
	"github.com/millrace/millrace/store"
	"github.com/millrace/millrace/syncrules"
)

// Limits of the admin API.
const (
	apiBody     = 4 << 20
	apiTimeout  = 20 * time.Second
	apiParallel = 4
)

// api is the admin API: what scripts and dashboards ask, for those who have one
// of the configured tokens. Safe for concurrent use.
type api struct {
	cfg    *config.Config
	tokens [][sha256.Size]byte
	slots  chan struct{}
	log    *slog.Logger
}

// newAPI serves /api/.
func newAPI(cfg *config.Config, log *slog.Logger) http.Handler {
	a := &api{cfg: cfg, slots: make(chan struct{}, apiParallel), log: log}
	for _, t := range cfg.API.Tokens {
		a.tokens = append(a.tokens, sha256.Sum256([]byte(t)))
	}
	mux := http.NewServeMux()
	for pattern, answer := range map[string]func(context.Context, []byte) (any, error){
		"POST /api/admin/v1/diagnostics":   a.diagnostics,
		"POST /api/admin/v1/validate":      a.validateField,
		"POST /api/admin/v1/explain/row":   a.explainRow,
		"POST /api/admin/v1/explain/user":  a.explainUser,
		"GET /api/sync-rules/v1/current":   a.current,
		"POST /api/sync-rules/v1/deploy":   a.deploy,
		"POST /api/sync-rules/v1/validate": a.validateRules,
	} {
		// Older tools read these answers as they are.
		bare := strings.Contains(pattern, "/sync-rules/")
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) { a.serve(w, req, bare, answer) })
	}
	mux.HandleFunc("/api/", func(w http.ResponseWriter, req *http.Request) {
		if err := a.authorize(req); err != nil {
			a.refuse(w, err)
			return
		}
		a.refuse(w, &apiError{protocol.CodeNoRoute, http.StatusNotFound, "there is no " + req.Method + " " + req.URL.Path})
	})
	return mux
}

// apiError is a refusal with the status and code of the answer.
type apiError struct {
	code   protocol.Code
	status int
	text   string
}

func (e *apiError) Error() string { return e.text }

func badRequest(format string, args ...any) error {
	return &apiError{protocol.CodeInvalid, http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// Codes of the admin API.
const (
	codeNoRules      protocol.Code = "PSYNC_S4104"
	codeInvalidRules protocol.Code = "PSYNC_R0001"
)

func (a *api) serve(w http.ResponseWriter, req *http.Request, bare bool, answer func(context.Context, []byte) (any, error)) {
	if err := a.authorize(req); err != nil {
		a.refuse(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(req.Context(), apiTimeout)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		a.refuse(w, ctx.Err())
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, apiBody))
	if err != nil {
		a.refuse(w, badRequest("the body is larger than %d bytes, or could not be read", apiBody))
		return
	}
	if kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type")); strings.HasSuffix(kind, "yaml") {
		if body, err = json.Marshal(map[string]string{"content": string(body)}); err != nil {
			a.refuse(w, err)
			return
		}
	}
	v, err := answer(ctx, body)
	if err != nil {
		a.refuse(w, err)
		return
	}
	if !bare {
		v = map[string]any{"data": v}
	}
	writeJSON(w, http.StatusOK, v)
}

// authorize checks the token, in a time that does not depend on it.
func (a *api) authorize(req *http.Request) error {
	denied := &apiError{protocol.CodeUnauthorized, http.StatusUnauthorized, "send Authorization: Bearer <one of api.tokens>"}
	if len(a.tokens) == 0 {
		denied.text = "the admin API is closed: api.tokens has no token"
		return denied
	}
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	digest := sha256.Sum256([]byte(token))
	found := 0
	for _, t := range a.tokens {
		found |= subtle.ConstantTimeCompare(digest[:], t[:])
	}
	if found == 0 || scheme != "Bearer" && scheme != "Token" {
		return denied
	}
	return nil
}

func (a *api) refuse(w http.ResponseWriter, err error) {
	var e *apiError
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e = &apiError{protocol.CodeRestarting, http.StatusServiceUnavailable, "no answer in time; try again"}
	default:
		a.log.Warn("admin API", "error", err)
		e = &apiError{protocol.CodeInvalid, http.StatusInternalServerError, redact(err.Error())}
	}
	body := protocol.ErrorBody{Code: e.code, Status: e.status, Description: e.text}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(e.status)
	_, _ = w.Write(append(body.AppendJSON(nil), '\n')) // what fails here is the connection
}

// decode reads a request; an empty body is an empty object.
func decode(body []byte, into any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return badRequest("the body: %v", err)
	}
	return nil
}

// diagnostics is what the views of the sidecar tell.
func (a *api) diagnostics(ctx context.Context, body []byte) (any, error) {
	var q struct {
		Content bool `json:"sync_rules_content"`
	}
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, string(a.cfg.Sidecar.URI))
	if err != nil {
		return nil, fmt.Errorf("reach the sidecar: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var text []byte
	err = conn.QueryRow(ctx, `
		WITH sources AS (
			SELECT coalesce(jsonb_agg(jsonb_build_object(
				'id', r.source, 'tag', r.source, 'connected', r.error IS NULL AND r.reported_at > clock_timestamp() - interval '1 minute',
				'errors', CASE WHEN r.error IS NULL THEN '[]' ELSE jsonb_build_array(jsonb_build_object('level', 'fatal', 'message', concat_ws(' ', r.error_code, r.error))) END,
				'slot_name', r.slot, 'last_lsn', r.durable, 'replication_lag_bytes', r.lag_bytes, 'replication_lag_seconds', r.lag_seconds,
				'wal_status', r.slot_state, 'retained_wal_bytes', r.retained_bytes, 'waiting_for', r.waiting_for, 'last_report_ts', r.reported_at)), '[]') AS list
			FROM millrace.replication r),
		sets AS (
			SELECT s.id, s.state, jsonb_build_object('rule_set', s.id, 'active_from', s.active_from, 'deployed_ts', s.created_at,
				'content', CASE WHEN $1 THEN s.content END, 'initial_replication_done', s.state <> 'building',
				'definitions', (SELECT jsonb_agg(jsonb_build_object('id', d.id, 'name', d.name, 'kind', d.kind, 'buckets', d.buckets, 'disk_bytes', d.disk_bytes) ORDER BY d.id)
					FROM millrace.definitions d WHERE s.mapping @> jsonb_build_array(jsonb_build_object('definition', d.id)))) AS info
			FROM millrace.rule_sets s)
		SELECT jsonb_build_object('connections', (SELECT list FROM sources),
			'active_sync_rules', (SELECT info FROM sets WHERE id = (SELECT millrace.rule_set_at(op_id) FROM millrace.head)),
			'deploying_sync_rules', (SELECT info FROM sets WHERE state = 'building' ORDER BY id DESC LIMIT 1),
			'status', (SELECT to_jsonb(s) FROM millrace.status s))`, q.Content).Scan(&text)
	if err != nil {
		return nil, fmt.Errorf("read the state of the sidecar: %w", err)
	}
	return json.RawMessage(text), nil
}

// checked compiles rules for an answer.
func checked(content string) (rules *syncrules.Rules, list []diagnosticJSON) {
	rules, diagnostics := syncrules.Compile("sync.yaml", []byte(content))
	if rules != nil {
		diagnostics = append(diagnostics, rules.Warnings()...)
	}
	return rules, diagnosticsJSON(diagnostics)
}

func (a *api) validateField(_ context.Context, body []byte) (any, error) {
	var q struct {
		Rules string `json:"sync_rules"`
	}
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	rules, list := checked(q.Rules)
	return map[string]any{"valid": rules != nil, "errors": list}, nil
}

type contentRequest struct {
	Content string `json:"content"`
}

func (a *api) validateRules(_ context.Context, body []byte) (any, error) {
	var q contentRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	rules, list := checked(q.Content)
	return map[string]any{"valid": rules != nil, "errors": list}, nil
}

// rulesClient connects to ask for changes of the rules.
func (a *api) rulesClient(ctx context.Context) (*store.Rules, error) {
	st, err := store.Open(ctx, string(a.cfg.Sidecar.URI), store.Options{})
	if err != nil {
		return nil, err
	}
	return st.Rules(ctx)
}

func (a *api) current(ctx context.Context, _ []byte) (any, error) {
	r, err := a.rulesClient(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	d, err := r.Deployed(ctx)
	if err != nil {
		return nil, err
	}
	if d.Active == nil && d.Building == nil {
		return nil, &apiError{codeNoRules, http.StatusUnprocessableEntity, "no sync rules were deployed yet"}
	}
	describe := func(s *millrace.RuleSet) any {
		if s == nil {
			return nil
		}
		names := []string{}
		for _, d := range s.Definitions {
			names = append(names, d.Key)
		}
		return map[string]any{"rule_set": s.ID, "content": s.Content, "valid": true, "definitions": names}
	}
	return map[string]any{"current": describe(d.Active), "next": describe(d.Building)}, nil
}

// deploy asks the decoder for a deploy and does not wait for it.
func (a *api) deploy(ctx context.Context, body []byte) (any, error) {
	var q contentRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	if rules, list := checked(q.Content); rules == nil {
		first := list[0]
		return nil, &apiError{codeInvalidRules, http.StatusUnprocessableEntity, fmt.Sprintf("%s:%d:%d: %s", first.File, first.Line, first.Column, first.Message)}
	}
	r, err := a.rulesClient(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	id, err := r.Request(ctx, millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: q.Content, File: "admin API"})
	if err != nil {
		return nil, err
	}
	return map[string]any{"request": id, "message": "the decoder builds what is new while the present rules serve; GET /api/sync-rules/v1/current shows when they are in force"}, nil
}

// explainRequest is what a user's device asks with.
type explainRequest struct {
	Table      string          `json:"table"`
	ID         string          `json:"id"`
	Claims     json.RawMessage `json:"claims"`
	Parameters json.RawMessage `json:"parameters"`
}

func (q *explainRequest) config(a *api) inspect.ExplainConfig {
	c := inspect.ExplainConfig{Sidecar: string(a.cfg.Sidecar.URI)}
	if len(q.Claims) > 0 {
		c.Request = syncrules.Request{Claims: q.Claims, Parameters: q.Parameters, IncludeDefaults: true}
	}
	return c
}

func (a *api) explainUser(ctx context.Context, body []byte) (any, error) {
	var q explainRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	if len(q.Claims) == 0 {
		return nil, badRequest(`claims is missing: the payload of the user's token, as {"claims": {"sub": "alice"}}`)
	}
	return inspect.ExplainUser(ctx, q.config(a))
}

func (a *api) explainRow(ctx context.Context, body []byte) (any, error) {
	var q explainRequest
	if err := decode(body, &q); err != nil {
		return nil, err
	}
	if q.Table == "" || q.ID == "" {
		return nil, badRequest(`table and id are needed, as {"table": "todos", "id": "…"}`)
	}
	c := q.config(a)
	sources, closeAll, err := connectSources(ctx, a.cfg.Sources)
	if err != nil {
		return nil, err
	}
	defer closeAll()
	c.Sources = sources
	x, err := inspect.ExplainRow(ctx, c, q.Table, q.ID)
	if err != nil {
		return nil, badRequest("%s", redact(err.Error()))
	}
	return x, nil
}
