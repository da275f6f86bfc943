package clientsdk_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/clientsdk"
)

// The local database works before there is a server: writes are seen at once
// and wait for upload.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	db, err := clientsdk.Open(ctx, clientsdk.Options{
		Path: filepath.Join(dir, "app.db"),
		Schema: clientsdk.Schema{Tables: []clientsdk.Table{
			{Name: "todos", Columns: []clientsdk.Column{{Name: "title"}, {Name: "done", Type: clientsdk.Integer}}},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	err = db.Transaction(ctx, func(tx *clientsdk.Tx) error {
		if _, err := tx.Execute(ctx, `INSERT INTO todos (id, title, done) VALUES ('1', 'Buy milk', 0), ('2', 'Call home', 0)`); err != nil {
			return err
		}
		_, err := tx.Execute(ctx, `UPDATE todos SET done = 1 WHERE id = '2'`)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}

	for rows, err := range db.Watch(ctx, `SELECT title, done FROM todos ORDER BY title`) {
		if err != nil {
			log.Fatal(err)
		}
		for rows.Next() {
			var title string
			var done bool
			if err := rows.Scan(&title, &done); err != nil {
				log.Fatal(err)
			}
			fmt.Println(title, done)
		}
		break // an app goes on: the loop runs again when todos change
	}

	tx, err := db.NextTransaction(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, op := range tx.Ops {
		fmt.Printf("%s %s %s %s\n", op.Kind, op.Type, op.ID, op.Data)
	}
	// Output:
	// Buy milk false
	// Call home true
	// PUT todos 1 {"title":"Buy milk","done":0}
	// PUT todos 2 {"title":"Call home","done":0}
	// PATCH todos 2 {"done":1}
}

// TestTutorialCompiles keeps the program of the tutorial right.
func TestTutorialCompiles(t *testing.T) {
	text, err := os.ReadFile("../docs/tutorials/go-client.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```go\n")
	program, _, ok2 := strings.Cut(rest, "```\n")
	if !ok || !ok2 {
		t.Fatal("the tutorial has no program")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
