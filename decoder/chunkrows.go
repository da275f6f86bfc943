package decoder

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/millrace/millrace/decoder/pgoutput"
)

// chunkMemory is how many bytes of a chunk's rows are kept in memory. Chunks of
// the usual size have less; those with more have long values, of which a few
// pages may hold gigabytes.
const chunkMemory = 2 * chunkTarget

// chunkRows holds the rows of a chunk: of each cell the length of its text (4
// bytes, big-endian) and the text; nullCell stands for a null. Rows that take
// too much memory go to a file, which has no name and so goes with the process.
// One goroutine uses it at a time.
type chunkRows struct {
	columns int
	buf     []byte

	memory int      // bytes of buf; chunkMemory if 0
	dir    string   // of the file; the system's temporary one if empty
	max    int64    // bytes of the file; 0 for any number
	file   *os.File // rows before those in buf; nil if there are none
	size   int64    // of it
}

const nullCell = ^uint32(0)

// chunkBuffers are those of chunks that were merged. A chunk's rows outgrow a
// small buffer many times, and leave garbage each time.
var chunkBuffers = sync.Pool{New: func() any { return new([]byte) }}

// errChunkTooLarge is a chunk whose rows may not all be kept.
var errChunkTooLarge = errors.New("too many bytes for one read")

// add keeps a row, whose bytes are not the chunk's.
func (r *chunkRows) add(t *pgoutput.Tuple) error {
	if r.buf == nil {
		r.buf = (*chunkBuffers.Get().(*[]byte))[:0]
	}
	for i := range t.Len() {
		switch t.Kind(i) {
		case pgoutput.Null:
			r.addNull()
		case pgoutput.Text:
			r.addText(t.Bytes(i))
		default:
			return errors.New("a copied row came in another format than text")
		}
	}
	if len(r.buf) >= cmp.Or(r.memory, chunkMemory) {
		return r.spill()
	}
	return nil
}

func (r *chunkRows) addNull() { r.buf = binary.BigEndian.AppendUint32(r.buf, nullCell) }

func (r *chunkRows) addText(text []byte) {
	r.buf = binary.BigEndian.AppendUint32(r.buf, uint32(len(text)))
	r.buf = append(r.buf, text...)
}

// spill moves the rows in memory to the file.
func (r *chunkRows) spill() error {
	if r.max > 0 && r.size+int64(len(r.buf)) > r.max {
		return fmt.Errorf("rows of more than %d bytes were read at once: %w; smaller parts of the table are tried, "+
			"raise decoder.spool_max if they do not do", r.max, errChunkTooLarge)
	}
	if r.file == nil {
		file, err := temporaryFile(r.dir)
		if err != nil {
			return fmt.Errorf("keep copied rows in a file: %w", err)
		}
		r.file = file
	}
	if _, err := r.file.Write(r.buf); err != nil {
		return fmt.Errorf("write copied rows to a file in decoder.spool_dir (free disk space there): %w", err)
	}
	r.size += int64(len(r.buf))
	r.buf = r.buf[:0]
	return nil
}

// temporaryFile makes a file that is gone when it is closed.
func temporaryFile(dir string) (*os.File, error) {
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	file, err := os.CreateTemp(dir, "chunk-*.rows")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// each calls f with the cells of every row; they are valid during the call.
func (r *chunkRows) each(f func(cells []cell) error) error {
	if r.columns == 0 {
		return nil
	}
	cells := make([]cell, r.columns)
	if r.file != nil {
		if err := r.eachSpilled(cells, f); err != nil {
			return err
		}
	}
	for b := r.buf; len(b) > 0; {
		size := firstRow(b, cells)
		if size == 0 {
			return errors.New("the last row of a chunk is not whole")
		}
		if err := f(cells); err != nil {
			return err
		}
		b = b[size:]
	}
	return nil
}

// readAhead is how much of the file is read at once; a longer row gets a longer
// buffer.
const readAhead = 256 << 10

func (r *chunkRows) eachSpilled(cells []cell, f func([]cell) error) error {
	b := make([]byte, 0, readAhead)
	for offset := int64(0); offset < r.size || len(b) > 0; {
		if offset < r.size {
			if len(b) == cap(b) { // not one whole row
				b = append(make([]byte, 0, 2*cap(b)), b...)
			}
			n, err := r.file.ReadAt(b[len(b):min(int64(cap(b)), int64(len(b))+r.size-offset)], offset)
			if err != nil && !(errors.Is(err, io.EOF) && n > 0) {
				return fmt.Errorf("read copied rows from a file: %w", err)
			}
			offset += int64(n)
			b = b[:len(b)+n]
		}
		used := 0
		for {
			size := firstRow(b[used:], cells)
			if size == 0 {
				break
			}
			if err := f(cells); err != nil {
				return err
			}
			used += size
		}
		if used == 0 && offset == r.size {
			return errors.New("read copied rows from a file: the last is not whole")
		}
		b = b[:copy(b, b[used:])]
	}
	return nil
}

// firstRow takes the cells of the first row in b, and gives its size; 0 if b
// does not hold all of it.
func firstRow(b []byte, cells []cell) (size int) {
	for i := range cells {
		if len(b)-size < 4 {
			return 0
		}
		n := binary.BigEndian.Uint32(b[size:])
		size += 4
		if n == nullCell {
			cells[i] = cell{known: true, null: true}
			continue
		}
		if uint64(len(b)-size) < uint64(n) {
			return 0
		}
		end := size + int(n)
		cells[i] = cell{known: true, text: b[size:end:end]}
		size = end
	}
	return size
}

// close gives back what the rows take. A second call does nothing.
func (r *chunkRows) close() {
	if buf := r.buf; cap(buf) > 0 && cap(buf) <= 2*chunkMemory {
		chunkBuffers.Put(&buf)
	}
	r.buf = nil
	if r.file != nil {
		_ = r.file.Close() // it has no name: nothing is left of it
		r.file, r.size = nil, 0
	}
}
