package relay

import (
	"bytes"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/millrace/millrace/protocol"
)

// dataLines are finished data lines, each ended by '\n', that several sessions
// may send. Never modified.
type dataLines struct {
	text []byte
	ops  int

	once    sync.Once
	gzipped []byte
}

// gzip gives the lines as one gzip member, made once for all.
func (d *dataLines) gzip() []byte {
	d.once.Do(func() { d.gzipped = gzipMember(d.text) })
	return d.gzipped
}

// chunk is a run of whole lines.
type chunk struct {
	text   []byte
	shared *dataLines // set if text is its text
}

// output collects lines to send, in order. Chunks are private to the session or
// shared with others.
type output struct {
	chunks []chunk
	ops    int
	// completed is set if the lines end with a checkpoint_complete.
	completed bool
}

// line appends a line of this session's own.
func (o *output) line(l protocol.Line) {
	if n := len(o.chunks); n == 0 || o.chunks[n-1].shared != nil {
		o.chunks = append(o.chunks, chunk{})
	}
	last := &o.chunks[len(o.chunks)-1]
	last.text = append(l.AppendLine(last.text), '\n')
}

// data appends finished data lines.
func (o *output) data(d *dataLines) {
	o.chunks = append(o.chunks, chunk{text: d.text, shared: d})
	o.ops += d.ops
}

func (o *output) empty() bool { return len(o.chunks) == 0 }

func (o *output) size() (n int) {
	for _, c := range o.chunks {
		n += len(c.text)
	}
	return n
}

var gzipWriters = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, 3)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

func gzipMember(text []byte) []byte {
	var b bytes.Buffer
	w := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(w)
	w.Reset(&b)
	w.Write(text) // a bytes.Buffer does not fail
	w.Close()
	return b.Bytes()
}
