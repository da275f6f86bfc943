package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	bigendian "encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/millrace/millrace/clientsdk"
)

const documentsSchema = `
CREATE TABLE documents (id text PRIMARY KEY, owner text NOT NULL);
CREATE TABLE document_updates (id text PRIMARY KEY, document_id text NOT NULL REFERENCES documents ON DELETE CASCADE, data bytea NOT NULL);
INSERT INTO documents VALUES ('plan', 'alice'), ('diary', 'bob');`

const documentsRules = `
config:
  edition: 3
streams:
  documents:
    auto_subscribe: true
    queries:
      - SELECT id FROM documents WHERE owner = auth.user_id()
      - SELECT id, document_id, base64(data) AS data FROM document_updates
        WHERE document_id IN (SELECT id FROM documents WHERE owner = auth.user_id())
`

// An update of a document, as libraries such as Yjs make them: bytes that say
// who wrote what after how many others. Merging sorts them, so that every
// device comes to the same document, whatever order they arrive in.
type update struct {
	clock  uint32
	device string
	text   string
}

func (u update) bytes() []byte {
	b := bigendian.BigEndian.AppendUint32([]byte{0x00, 0xff}, u.clock)
	b = append(b, byte(len(u.device)))
	b = append(b, u.device...)
	return append(b, u.text...)
}

func decodeUpdate(b []byte) (update, error) {
	if len(b) < 7 || b[0] != 0x00 || b[1] != 0xff || len(b) < 7+int(b[6]) {
		return update{}, fmt.Errorf("update of %d bytes: %x", len(b), b)
	}
	n := 7 + int(b[6])
	return update{bigendian.BigEndian.Uint32(b[2:]), string(b[7:n]), string(b[n:])}, nil
}

// merge is the document that updates make.
func merge(list [][]byte) (text string, clock uint32, err error) {
	var updates []update
	for _, b := range list {
		u, err := decodeUpdate(b)
		if err != nil {
			return "", 0, err
		}
		updates = append(updates, u)
		clock = max(clock, u.clock)
	}
	slices.SortFunc(updates, func(a, b update) int {
		if a.clock != b.clock {
			return int(a.clock) - int(b.clock)
		}
		return strings.Compare(a.device, b.device)
	})
	for _, u := range updates {
		text += u.text
	}
	return text, clock, nil
}

// editor is a device whose app edits a document.
type editor struct{ *appDevice }

func (e editor) updates() [][]byte {
	e.a.t.Helper()
	texts, err := e.texts(`SELECT id, data FROM document_updates`)
	if err != nil {
		e.a.t.Fatal(err)
	}
	var list [][]byte
	for _, data := range texts {
		b, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			e.a.t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

// write appends an update that comes after everything the device has.
func (e editor) write(text string) {
	e.a.t.Helper()
	_, clock, err := merge(e.updates())
	if err != nil {
		e.a.t.Fatal(err)
	}
	b := update{clock + 1, e.name, text}.bytes()
	e.must(`INSERT INTO document_updates (id, document_id, data) VALUES (?, 'plan', ?)`,
		fmt.Sprintf("%x", sha256.Sum256(b)), base64.StdEncoding.EncodeToString(b))
}

// storeUpdates is the app's backend: it turns the text into bytes again.
func storeUpdates(uri string) func(context.Context, []clientsdk.UploadOp) error {
	return func(ctx context.Context, ops []clientsdk.UploadOp) error {
		conn, err := pgx.Connect(ctx, uri)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		for _, op := range ops {
			var row struct {
				DocumentID string `json:"document_id"`
				Data       []byte `json:"data"` // encoding/json reads base64
			}
			if err := json.Unmarshal(op.Data, &row); err != nil {
				return err
			}
			_, err := conn.Exec(ctx, `INSERT INTO document_updates VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, op.ID, row.DocumentID, row.Data)
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// Binary updates of a CRDT, written on two devices that are offline and merged
// on both: every device has the very bytes that the source has, nobody else has
// any, and after the source squashes them into one the document is the same.
func TestBinaryUpdatesMerge(t *testing.T) {
	a := newApp(t, documentsSchema, documentsRules, "")
	table := clientsdk.Table{Name: "document_updates", Columns: []clientsdk.Column{{Name: "document_id"}, {Name: "data"}}}
	phone, laptop := editor{newAppDevice(a, "phone", "alice", table)}, editor{newAppDevice(a, "laptop", "alice", table)}
	bob := newAppDevice(a, "bob", "bob", table)
	for _, d := range []*appDevice{phone.appDevice, laptop.appDevice} {
		d.upload = storeUpdates(a.sourceURI)
	}
	// Both write while they are offline, bytes that are no text.
	for i := range 10 {
		phone.write(fmt.Sprintf("p%d\x00\xfe", i))
		laptop.write(fmt.Sprintf("l%d\xff\x00", i))
	}
	inSource := func() map[string]string {
		t.Helper()
		conn, err := connectAs(t.Context(), a.sourceURI, "e2e-oracle")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		rows, err := conn.Query(t.Context(), `SELECT id, data FROM document_updates`)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		var id string
		var data []byte
		if _, err := pgx.ForEachRow(rows, []any{&id, &data}, func() error {
			want[id] = base64.StdEncoding.EncodeToString(data)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return want
	}
	agree := func(updates int) string {
		t.Helper()
		want := inSource()
		if len(want) != updates {
			t.Fatalf("the source has %d updates, want %d", len(want), updates)
		}
		var merged string
		for i, e := range []editor{phone, laptop} {
			e.shows(`SELECT id, data FROM document_updates`, want)
			text, _, err := merge(e.updates())
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 && text != merged {
				t.Errorf("%s has %q, the other %q", e.name, text, merged)
			}
			merged = text
		}
		return merged
	}
	bob.connect()
	for _, e := range []editor{phone, laptop} {
		e.connect()
		if err := e.WaitFor(t.Context(), func(s clientsdk.Status) bool { return s.HasSynced && !s.Uploading }); err != nil {
			t.Fatal(err)
		}
		e.emptied()
	}
	text := agree(20)
	if len(text) != 20*4 || !strings.Contains(text, "p0\x00\xfe") || !strings.Contains(text, "l9\xff\x00") {
		t.Errorf("the document is %q", text)
	}
	// The next update of one comes after all of both.
	phone.write("end")
	phone.emptied()
	if text = agree(21); !strings.HasSuffix(text, "end") {
		t.Errorf("the document is %q", text)
	}
	// The backend squashes them, in one transaction.
	_, clock, err := merge(laptop.updates())
	if err != nil {
		t.Fatal(err)
	}
	squashed := update{clock, "server", text}.bytes()
	execSQL(t, a.sourceURI, fmt.Sprintf(`DELETE FROM document_updates WHERE document_id = 'plan'; INSERT INTO document_updates VALUES ('squashed', 'plan', '\x%x')`, squashed))
	if after := agree(1); after != text {
		t.Errorf("the squashed document is %q, want %q", after, text)
	}
	if got, err := bob.texts(`SELECT id, data FROM document_updates`); err != nil || len(got) != 0 {
		t.Errorf("bob has %d updates of alice's, %v", len(got), err)
	}
}
