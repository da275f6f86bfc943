package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/millrace/millrace/demo"
	"github.com/millrace/millrace/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

const (
	aliceList = "00000000-0000-4000-a000-000000000001" // shared with bob
	carolList = "00000000-0000-4000-a000-000000000004" // dave's and erin's
	aliceTodo = "00000000-0000-4000-b000-000000000001" // in aliceList
	newID     = "11111111-1111-4111-8111-111111111111"
)

// setup gives a backend on a fresh demo database whose tokens are user names.
func setup(t *testing.T) (*Handler, *pgxpool.Pool) {
	t.Helper()
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, pgtest.Shared(t).Database(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	for _, sql := range []string{demo.Schema, demo.Seed} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	return New(Config{Pool: pool, Verify: verify}), pool
}

func verify(token string) (string, error) {
	if token == "bad" {
		return "", errors.New("PSYNC_S2101: the signature does not verify")
	}
	return token, nil
}

type answer struct {
	Status  int
	Applied []string
	Error   *Error
}

func post(t *testing.T, h http.Handler, user, body string) (a answer) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/upload", strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+user)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	a.Status = w.Code
	if w.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Error("no CORS header")
	}
	return a
}

func one[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (v T) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func batch(ops ...string) string { return `{"batch":[` + strings.Join(ops, ",") + `]}` }

func TestBothForms(t *testing.T) {
	h, pool := setup(t)
	put := fmt.Sprintf(`{"op":"PUT","type":"todos","id":"%s","data":{"list_id":"%s","title":"Milk","completed":1.0,"created_by":"bob"}}`, newID, aliceList)
	if a := post(t, h, "bob", batch(put)); a.Status != 200 || len(a.Applied) != 1 {
		t.Fatalf("%+v", a)
	}
	if got := one[string](t, pool, `SELECT title || completed || created_by FROM todos WHERE id = $1`, newID); got != "Milktruebob" {
		t.Fatal(got)
	}
	body := fmt.Sprintf(`{"client_id":"c","transactions":[
		{"id":1,"ops":[{"op":"PATCH","type":"todos","id":"%[1]s","data":{"title":"Oat milk","completed_at":"2026-01-01 00:00:00Z"}}]},
		{"id":"2","ops":[{"op":"DELETE","type":"todos","id":"%[1]s"}, {"op":"PATCH","type":"lists","id":"%[2]s","data":{"name":"Food"}}]}]}`, newID, aliceList)
	if a := post(t, h, "bob", body); a.Status != 200 || strings.Join(a.Applied, ",") != "1,2" {
		t.Fatalf("%+v", a)
	}
	if n := one[int](t, pool, `SELECT count(*) FROM todos WHERE id = $1`, newID); n != 0 {
		t.Fatal("not deleted")
	}
	if got := one[string](t, pool, `SELECT name FROM lists WHERE id = $1`, aliceList); got != "Food" {
		t.Fatal(got)
	}
}

// TestOneTransaction: a client transaction is one source transaction; a later
// one that fails leaves earlier ones in place, and the answer says which.
func TestOneTransaction(t *testing.T) {
	h, pool := setup(t)
	body := fmt.Sprintf(`{"transactions":[
		{"id":"1","ops":[{"op":"PATCH","type":"todos","id":"%[1]s","data":{"title":"one"}},{"op":"PATCH","type":"lists","id":"%[2]s","data":{"name":"one"}}]},
		{"id":"2","ops":[{"op":"PATCH","type":"lists","id":"%[2]s","data":{"name":"two"}},{"op":"DELETE","type":"lists","id":"%[3]s"}]},
		{"id":"3","ops":[{"op":"PATCH","type":"lists","id":"%[2]s","data":{"name":"three"}}]}]}`, aliceTodo, aliceList, carolList)
	a := post(t, h, "alice", body)
	if a.Status != 403 || a.Error.Code != CodeForbidden || a.Error.Retryable || *a.Error.Transaction != "2" || *a.Error.Op != 1 || strings.Join(a.Applied, ",") != "1" {
		t.Fatalf("%+v %+v", a, a.Error)
	}
	if got := one[string](t, pool, `SELECT name FROM lists WHERE id = $1`, aliceList); got != "one" {
		t.Fatal(got)
	}
	ids := one[int](t, pool, `SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM todos WHERE id = $1 UNION ALL SELECT xmin FROM lists WHERE id = $2) AS x`, aliceTodo, aliceList)
	if ids != 1 {
		t.Fatal("one client transaction became several")
	}
}

func TestRights(t *testing.T) {
	h, pool := setup(t)
	member := func(list, user string) string {
		return fmt.Sprintf(`{"op":"PUT","type":"list_members","id":"%s.%s","data":{"list_id":"%s","user_id":"%s"}}`, list, user, list, user)
	}
	leave := func(list, user string) string {
		return fmt.Sprintf(`{"op":"DELETE","type":"list_members","id":"%s.%s"}`, list, user)
	}
	todo := func(op, id, data string) string {
		return fmt.Sprintf(`{"op":"%s","type":"todos","id":"%s","data":%s}`, op, id, data)
	}
	list := func(op, id, data string) string {
		return fmt.Sprintf(`{"op":"%s","type":"lists","id":"%s","data":%s}`, op, id, data)
	}
	for i, c := range []struct {
		user, op string
		code     Code
	}{
		{"alice", list("PUT", newID, `{"name":"New"}`), ""},
		{"alice", list("PUT", newID, `{"name":"New","owner_id":"alice"}`), ""},
		{"alice", list("PUT", "22222222-2222-4222-8222-222222222222", `{"name":"New","owner_id":"bob"}`), CodeForbidden},
		{"bob", list("PATCH", newID, `{"name":"Mine"}`), CodeForbidden},
		{"bob", list("PUT", newID, `{"name":"Mine"}`), CodeForbidden},
		{"bob", list("PATCH", aliceList, `{"name":"Ours"}`), ""},
		{"bob", list("PATCH", aliceList, `{"owner_id":"bob"}`), CodeForbidden},
		{"bob", list("DELETE", aliceList, `null`), CodeForbidden},
		{"bob", todo("PATCH", aliceTodo, `{"completed":true}`), ""},
		{"carol", todo("PATCH", aliceTodo, `{"completed":true}`), CodeForbidden},
		{"carol", todo("DELETE", aliceTodo, `null`), CodeForbidden},
		{"alice", todo("PATCH", aliceTodo, fmt.Sprintf(`{"list_id":"%s"}`, carolList)), CodeForbidden},
		{"alice", todo("PATCH", aliceTodo, `{"created_by":"bob"}`), CodeForbidden},
		{"alice", todo("PUT", newID, `{"list_id":"33333333-3333-4333-8333-333333333333","title":"x"}`), CodeForbidden},
		{"bob", member(aliceList, "heidi"), CodeForbidden},
		{"alice", member(aliceList, "heidi"), ""},
		{"alice", member(aliceList, "nobody"), CodeConstraint},
		{"alice", fmt.Sprintf(`{"op":"PUT","type":"list_members","id":"%s.heidi","data":{"user_id":"bob"}}`, aliceList), CodeInvalid},
		{"bob", leave(aliceList, "heidi"), CodeForbidden},
		{"heidi", leave(aliceList, "heidi"), ""},
		{"alice", leave(aliceList, "bob"), ""},
		{"bob", todo("PATCH", aliceTodo, `{"completed":false}`), CodeForbidden},
		{"alice", `{"op":"PATCH","type":"users","id":"alice","data":{"name":"A"}}`, ""},
		{"alice", `{"op":"PATCH","type":"users","id":"bob","data":{"name":"A"}}`, CodeForbidden},
		{"alice", `{"op":"DELETE","type":"users","id":"alice"}`, CodeForbidden},
		{"alice", todo("PATCH", newID, `{"title":"gone"}`), ""},
		{"alice", todo("DELETE", newID, `null`), ""},
		{"alice", list("DELETE", "44444444-4444-4444-8444-444444444444", `null`), ""},
		{"alice", list("PATCH", "44444444-4444-4444-8444-444444444444", `{"name":"x"}`), ""},
		{"alice", leave("44444444-4444-4444-8444-444444444444", "bob"), ""},
		{"alice", list("DELETE", aliceList, `null`), ""},
	} {
		a := post(t, h, c.user, batch(c.op))
		switch {
		case c.code == "" && a.Status != 200:
			t.Errorf("%d: %s by %s: %+v", i, c.op, c.user, a.Error)
		case c.code != "" && (a.Error == nil || a.Error.Code != c.code || a.Error.Retryable):
			t.Errorf("%d: %s by %s: %d %+v, not %s", i, c.op, c.user, a.Status, a.Error, c.code)
		}
	}
	if n := one[int](t, pool, `SELECT count(*) FROM todos WHERE list_id = $1`, aliceList); n != 0 {
		t.Errorf("%d todos outlived their list", n)
	}
}

// TestIdempotence: a transaction sent again neither fails nor overwrites what
// happened since; without the memory it still ends in its own state.
func TestIdempotence(t *testing.T) {
	h, pool := setup(t)
	body := fmt.Sprintf(`{"client_id":"c1","transactions":[{"id":"1","ops":[
		{"op":"PUT","type":"todos","id":"%[1]s","data":{"list_id":"%[2]s","title":"a"}},
		{"op":"PATCH","type":"todos","id":"%[3]s","data":{"title":"b"}},
		{"op":"DELETE","type":"list_members","id":"%[2]s.bob"}]}]}`, newID, aliceList, aliceTodo)
	var wg sync.WaitGroup
	for range 8 { // at the same time
		wg.Go(func() {
			if a := post(t, h, "alice", body); a.Status != 200 {
				t.Errorf("%+v", a.Error)
			}
		})
	}
	wg.Wait()
	if _, err := pool.Exec(context.Background(), `UPDATE todos SET title = 'newer' WHERE id = $1`, aliceTodo); err != nil {
		t.Fatal(err)
	}
	if a := post(t, h, "alice", body); a.Status != 200 || len(a.Applied) != 1 {
		t.Fatalf("%+v", a.Error)
	}
	if got := one[string](t, pool, `SELECT title FROM todos WHERE id = $1`, aliceTodo); got != "newer" {
		t.Fatalf("a repeated transaction overwrote a newer one: %s", got)
	}
	forgetful := New(Config{Pool: pool, Verify: verify, Remember: -1})
	if a := post(t, forgetful, "alice", body); a.Status != 200 {
		t.Fatalf("%+v", a.Error)
	}
	if got := one[string](t, pool, `SELECT title FROM todos WHERE id = $1`, aliceTodo); got != "b" {
		t.Fatal(got)
	}
}

func TestRefusals(t *testing.T) {
	h, _ := setup(t)
	for _, c := range []struct {
		user, body string
		status     int
		code       Code
		retry      bool
	}{
		{"bad", batch(), 401, CodeUnauthorized, true},
		{"", batch(), 401, CodeUnauthorized, true},
		{"alice", `{`, 400, CodeInvalid, false},
		{"alice", `{}`, 400, CodeInvalid, false},
		{"alice", `{"batch":[],"transactions":[]}`, 400, CodeInvalid, false},
		{"alice", batch(`{"op":"PUT","type":"pg_class","id":"1"}`), 400, CodeInvalid, false},
		{"alice", batch(`{"op":"put","type":"lists","id":"1"}`), 400, CodeInvalid, false},
		{"alice", batch(`{"op":"PUT","type":"lists"}`), 400, CodeInvalid, false},
		{"alice", batch(`{"op":"PUT","type":"lists","id":"` + newID + `","data":{"name":"x","nope":1}}`), 400, CodeInvalid, false},
		{"alice", batch(`{"op":"PUT","type":"lists","id":"` + newID + `","data":{"name":{}}}`), 400, CodeInvalid, false},
		{"alice", batch(`{"op":"PUT","type":"lists","id":"` + newID + `","data":{"name":null}}`), 422, CodeConstraint, false},
		{"alice", batch(`{"op":"PUT","type":"lists","id":"no uuid","data":{"name":"x"}}`), 422, CodeConstraint, false},
		{"alice", `{"batch":["` + strings.Repeat("x", maxBodyBytes) + `"]}`, 413, CodeTooLarge, false},
	} {
		a := post(t, h, c.user, c.body)
		if a.Status != c.status || a.Error == nil || a.Error.Code != c.code || a.Error.Retryable != c.retry || a.Error.Description == "" {
			t.Errorf("%.80s: %d %+v", c.body, a.Status, a.Error)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodOptions, "/upload", nil))
	if w.Code != 204 || !strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("preflight: %d %v", w.Code, w.Header())
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/upload", nil))
	if w.Code != 405 {
		t.Errorf("GET: %d", w.Code)
	}
}

// TestUnavailable: a database that is away is a reason to retry.
func TestUnavailable(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pool, err := pgxpool.New(ctx, "postgres://nobody@127.0.0.1:1/none?connect_timeout=2")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	a := post(t, New(Config{Pool: pool, Verify: verify}), "alice", batch(`{"op":"DELETE","type":"lists","id":"`+newID+`"}`))
	if a.Status != 503 || !a.Error.Retryable || a.Error.Code != CodeUnavailable {
		t.Fatalf("%+v", a.Error)
	}
}
