package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/internal/pgtest"
)

const apiToken = "a-token-of-the-admin-api"

// ask sends a request to the admin API.
func ask(t *testing.T, method, url, token, kind, body string) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b) {
		t.Errorf("%s %s answers no JSON: %s", method, url, b)
	}
	return res.StatusCode, string(b)
}

func TestAdminAPI(t *testing.T) {
	s := newSystem(t)
	s.cfg.API.Tokens = []config.Token{"another-token-of-it", apiToken}
	s.start(t)
	const bearer = "Bearer " + apiToken
	says := func(status int, wants []string, method, path, token, kind, body string) {
		t.Helper()
		got, answer := ask(t, method, s.url+path, token, kind, body)
		for _, want := range wants {
			if got != status || !strings.Contains(answer, want) {
				t.Errorf("%s %s: status %d, it does not say %q:\n%s", method, path, got, want, answer)
			}
		}
		if strings.Contains(answer, "-of-the-admin-api") || strings.Contains(answer, "password") {
			t.Errorf("%s %s tells a secret:\n%s", method, path, answer)
		}
	}
	for _, token := range []string{"", "Bearer wrong", apiToken, "Basic " + apiToken} {
		says(http.StatusUnauthorized, []string{"PSYNC_S2101", "api.tokens"}, "POST", "/api/admin/v1/diagnostics", token, "", "{}")
	}
	says(http.StatusUnauthorized, []string{"PSYNC_S2101"}, "GET", "/api/nothing", "", "", "")
	says(http.StatusNotFound, []string{"PSYNC_S2002"}, "GET", "/api/nothing", bearer, "", "")

	says(http.StatusOK, []string{`{"data":{`, `"tag":"main"`, `"connected":true`, `"deploying_sync_rules":null`, `"initial_replication_done":true`, `"content":null`},
		"POST", "/api/admin/v1/diagnostics", "Token "+apiToken, "application/json", "")
	says(http.StatusOK, []string{`"content":"`, "my_lists"}, "POST", "/api/admin/v1/diagnostics", bearer, "application/json", `{"sync_rules_content": true}`)
	says(http.StatusBadRequest, []string{"PSYNC_S2001", "unknown field"}, "POST", "/api/admin/v1/diagnostics", bearer, "application/json", `{"x": 1}`)

	bad := "bucket_definitions:\n  a: {data: [SELEC]}\n"
	says(http.StatusOK, []string{`{"data":{`, `"valid":false`, `"line":2`}, "POST", "/api/admin/v1/validate", bearer, "application/json", fmt.Sprintf(`{"sync_rules": %q}`, bad))
	says(http.StatusOK, []string{`{"errors":`, `"valid":false`}, "POST", "/api/sync-rules/v1/validate", bearer, "application/yaml", bad)
	says(http.StatusUnprocessableEntity, []string{"PSYNC_R0001", "sync.yaml:2:"}, "POST", "/api/sync-rules/v1/deploy", bearer, "application/yaml", bad)
	says(http.StatusOK, []string{`{"current":{`, `"next":null`, "my_lists"}, "GET", "/api/sync-rules/v1/current", bearer, "", "")

	says(http.StatusOK, []string{`"exists":true`, `"user":{"user":"alice","gets":true`}, "POST", "/api/admin/v1/explain/row", bearer, "application/json",
		fmt.Sprintf(`{"table": "todos", "id": %q, "claims": {"sub": "alice"}}`, explainedTodo))
	says(http.StatusBadRequest, []string{"table and id are needed"}, "POST", "/api/admin/v1/explain/row", bearer, "application/json", `{}`)
	says(http.StatusBadRequest, []string{"read no table nothing"}, "POST", "/api/admin/v1/explain/row", bearer, "application/json", `{"table":"nothing","id":"x"}`)
	says(http.StatusOK, []string{`"user":"bob"`, `"buckets":[{`}, "POST", "/api/admin/v1/explain/user", bearer, "application/json", `{"claims": {"sub": "bob"}}`)
	says(http.StatusBadRequest, []string{"claims is missing"}, "POST", "/api/admin/v1/explain/user", bearer, "application/json", `{}`)

	rules := "bucket_definitions:\n  everything:\n    data:\n      - SELECT id, name FROM lists\n"
	says(http.StatusOK, []string{`"request":1`}, "POST", "/api/sync-rules/v1/deploy", bearer, "application/yaml", rules)
	pgtest.Eventually(t, time.Minute, func() error {
		if status, answer := ask(t, "GET", s.url+"/api/sync-rules/v1/current", bearer, "", ""); status != http.StatusOK || !strings.Contains(answer, "bucket:everything") {
			return fmt.Errorf("status %d: %s", status, answer)
		}
		return nil
	})
}

// Without a token of its own the API is closed to everybody.
func TestAdminAPIIsClosed(t *testing.T) {
	cfg := config.Default()
	h := httptest.NewServer(newAPI(&cfg, slog.New(slog.DiscardHandler)))
	defer h.Close()
	for _, token := range []string{"", "Bearer ", "Bearer x"} {
		status, answer := ask(t, "POST", h.URL+"/api/admin/v1/diagnostics", token, "", "")
		if status != http.StatusUnauthorized || !strings.Contains(answer, "the admin API is closed") {
			t.Errorf("%q: %d %s", token, status, answer)
		}
	}
}
