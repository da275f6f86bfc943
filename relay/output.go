package relay

import (
	"bytes"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/millrace/millrace/protocol"
)

// dataLines are finished data lines that several sessions may send. Never
// modified; each other form of them is made once, by the first that needs it.
type dataLines struct {
	text []byte // as protocol.Encoding.AppendData ends them
	as   protocol.Encoding
	ops  int

	gzipped  made // one gzip member
	deflated made // blocks for the middle of a deflate stream
	framed   made // one zstd frame
	recoding sync.Once
	recoded  *dataLines // in BSON
}

// made is bytes that are made at most once.
type made struct {
	once  sync.Once
	bytes []byte
}

func (m *made) get(from []byte, by func([]byte) []byte) []byte {
	m.once.Do(func() { m.bytes = by(from) })
	return m.bytes
}

// in gives the lines of a node, which are JSON, in an encoding; nil if they are
// not there in it, and pages must be read.
func (d *dataLines) in(as protocol.Encoding) *dataLines {
	switch {
	case d == nil || as == protocol.NestedJSON:
		return nil
	case as == protocol.JSON:
		return d
	}
	d.recoding.Do(func() {
		text := make([]byte, 0, len(d.text)+len(d.text)/4)
		for line := range bytes.Lines(d.text) {
			l, err := protocol.DecodeLine(line)
			if err != nil {
				return
			}
			text = l.AppendBSON(text)
		}
		d.recoded = &dataLines{text: text, as: protocol.BSON, ops: d.ops}
	})
	return d.recoded
}

// chunk is a run of whole lines.
type chunk struct {
	text   []byte
	shared *dataLines // set if text is its text
}

// output collects lines to send, in order. Chunks are private to the session or
// shared with others.
type output struct {
	as     protocol.Encoding
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
	last.text = o.as.AppendLine(last.text, l)
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
