package relay_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/relay"
	"github.com/millrace/millrace/relay/relaytest"
)

const bsonStream, ndjson = "application/vnd.powersync.bson-stream", "application/x-ndjson"

// TestNegotiation: BSON only where it is preferred, the exact content types, and
// of the codings zstd before gzip.
func TestNegotiation(t *testing.T) {
	srv := relaytest.Serve(t, relaytest.NewSidecar())
	for _, c := range []struct{ accept, acceptEncoding, contentType, coding string }{
		{"", "identity", ndjson, ""},
		{"*/*", "identity", ndjson, ""},
		{"text/html", "identity", ndjson, ""},
		{bsonStream + ";q=0.9," + ndjson + ";q=0.8", "gzip, deflate", bsonStream, "gzip"},
		{bsonStream + ";q=0.9," + ndjson + ";q=0.8", "gzip, deflate, br, zstd", bsonStream, "zstd"},
		{bsonStream + ";q=0.8, " + ndjson + ";q=0.9", "zstd", ndjson, "zstd"},
		{bsonStream + "," + ndjson, "gzip;q=0.9, zstd;q=0.5", ndjson, "gzip"},
		{bsonStream, "gzip;q=0, zstd; q=0.000", bsonStream, ""},
		{ndjson + ";q=0, " + bsonStream + ";q=0.1", "br", bsonStream, ""},
		{strings.ToUpper(bsonStream), "GZIP", bsonStream, "gzip"},
		{bsonStream + ";q=many", "gzip;q=-1", ndjson, ""},
		{"", "gzip;q=0.5, identity;q=0.8", ndjson, ""},
	} {
		t.Run(c.accept+" "+c.acceptEncoding, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			header := http.Header{"Accept-Encoding": {c.acceptEncoding}}
			if c.accept != "" {
				header.Set("Accept", c.accept)
			}
			resp := post(t, ctx, srv, srv.Token("alice"), relaytest.Request("c").AppendJSON(nil), header)
			defer resp.Body.Close()
			if got := resp.Header.Get("Content-Type"); got != c.contentType {
				t.Errorf("content type %q, want %q", got, c.contentType)
			}
			if got := resp.Header.Get("Content-Encoding"); got != c.coding {
				t.Errorf("content encoding %q, want %q", got, c.coding)
			}
			if got := resp.Header.Get("Vary"); got != "Accept, Accept-Encoding" {
				t.Errorf("vary %q", got)
			}
		})
	}
}

// TestStreamEncodings: a first sync, a small change and a large one, which
// reaches clients by pages, in every form there is. Two clients share each.
func TestStreamEncodings(t *testing.T) {
	for _, accept := range []string{ndjson, bsonStream} {
		for _, coding := range []string{"identity", "gzip", "zstd"} {
			t.Run(accept+" "+coding, func(t *testing.T) {
				side := relaytest.NewSidecar()
				srv := relaytest.Serve(t, side, relaytest.Options{Limits: relay.Limits{NodeBytes: 40_000}})
				put := func(n int) millrace.OpID {
					return side.Commit(func(tx *relaytest.Tx) {
						for i := range n {
							tx.Put("mine", "alice", "t", fmt.Sprint(i), fmt.Sprintf(`{"n":%d,"text":"é \"quoted\" \\ again and again"}`, n))
						}
						tx.Remove("mine", "alice", "t", "none")
					}).OpID
				}
				header := http.Header{"Accept": {accept}, "Accept-Encoding": {coding}}
				clients := []*relaytest.Client{}
				at := put(1500)
				for i := range 2 {
					clients = append(clients, relaytest.DialWith(t, srv.URL, srv.Token("alice"), relaytest.Request(fmt.Sprint("c", i)), nil, header.Clone()))
				}
				for _, n := range []int{1500, 3, 100, 2500} {
					if n != 1500 {
						at = put(n)
					}
					for _, c := range clients {
						c.Until(at)
						if got := c.Rows("mine", "alice")["2"]; got != fmt.Sprintf(`{"n":%d,"text":"é \"quoted\" \\ again and again"}`, n) {
							t.Fatalf("row %q after %d", got, n)
						}
					}
				}
			})
		}
	}
}

// TestZstd: every line can be read at once, large ones are compressed, and the
// stream as a whole is valid.
func TestZstd(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	resp := post(t, t.Context(), srv, srv.Token("alice"), relaytest.Request("c").AppendJSON(nil), http.Header{"Accept-Encoding": {"zstd"}})
	defer resp.Body.Close()
	counted := &countingReader{r: resp.Body}
	z, err := zstd.NewReader(counted, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var all strings.Builder
	buf := make([]byte, 64<<10)
	readUntil := func(mark string) {
		t.Helper()
		for !strings.Contains(all.String(), mark) {
			n, err := z.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				t.Fatalf("reading up to %s: %v", mark, err)
			}
		}
	}
	readUntil(`{"checkpoint_complete"`)
	before := counted.n
	large := side.Commit(func(tx *relaytest.Tx) {
		tx.Put("mine", "alice", "t", "2", `{"a":"`+strings.Repeat("hello ", 2_000_000)+`"}`)
	})
	readUntil(fmt.Sprintf(`{"checkpoint_complete":{"last_op_id":"%d"}}`, large.OpID))
	if n := counted.n - before; n > 100_000 {
		t.Errorf("12 MB took %d bytes", n)
	}
	srv.Stop()
	if _, err := io.Copy(&all, z); err != nil {
		t.Errorf("the end of the stream: %v", err)
	}
}

// TestBSONKeepsDataAsText: nested data are for NDJSON alone.
func TestBSONKeepsDataAsText(t *testing.T) {
	side := relaytest.NewSidecar()
	srv := relaytest.Serve(t, side)
	cp := side.Commit(func(tx *relaytest.Tx) { tx.Put("mine", "alice", "t", "1", `{"n":1}`) })
	r := relaytest.Request("c")
	r.RawData = false
	c := relaytest.DialWith(t, srv.URL, srv.Token("alice"), r, nil, http.Header{"Accept": {bsonStream}})
	c.Until(cp.OpID)
	if got := c.Rows("mine", "alice")["1"]; got != `{"n":1}` {
		t.Errorf("row %q", got)
	}
}
