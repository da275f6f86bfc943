package catalog

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/millrace/millrace/decoder/pgoutput"
)

// copyReader takes the text format of COPY and gives rows. Values without
// escapes are views of what was written to it.
type copyReader struct {
	columns int
	row     func(*pgoutput.Tuple) error

	tuple   pgoutput.Tuple
	partial []byte // a line that has not ended
	scratch []byte // values with escapes, of one row
	rows    int
	bytes   int64
	err     error
}

var errCopyFormat = errors.New("rows of the copy cannot be read")

// Write takes the next bytes; they need not end with a row.
func (c *copyReader) Write(p []byte) (int, error) {
	n := len(p)
	c.bytes += int64(n)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			c.partial = append(c.partial, p...)
			break
		}
		line := p[:end]
		p = p[end+1:]
		if len(c.partial) > 0 {
			c.partial = append(c.partial, line...)
			line = c.partial
		}
		if c.err = c.line(line); c.err != nil {
			return 0, c.err
		}
		c.partial = c.partial[:0]
	}
	return n, nil
}

func (c *copyReader) close() error {
	if len(c.partial) > 0 {
		return fmt.Errorf("%w: the last row is cut off", errCopyFormat)
	}
	return nil
}

func (c *copyReader) line(line []byte) error {
	c.tuple.Reset()
	c.scratch = c.scratch[:0]
	// A table may be published without any column to read.
	for more := c.columns > 0; more; {
		var value []byte
		if tab := bytes.IndexByte(line, '\t'); tab >= 0 {
			value, line = line[:tab], line[tab+1:]
		} else {
			value, more = line, false
		}
		switch {
		case len(value) == 2 && value[0] == '\\' && value[1] == 'N':
			c.tuple.AppendColumn(pgoutput.Null, nil)
		case bytes.IndexByte(value, '\\') < 0:
			c.tuple.AppendColumn(pgoutput.Text, value)
		default:
			start := len(c.scratch)
			var err error
			if c.scratch, err = appendUnescaped(c.scratch, value); err != nil {
				return err
			}
			c.tuple.AppendColumn(pgoutput.Text, c.scratch[start:len(c.scratch):len(c.scratch)])
		}
	}
	if c.tuple.Len() != c.columns {
		return fmt.Errorf("%w: %d columns instead of %d", errCopyFormat, c.tuple.Len(), c.columns)
	}
	c.rows++
	return c.row(&c.tuple)
}

// appendUnescaped undoes the escapes that COPY writes.
func appendUnescaped(b, value []byte) ([]byte, error) {
	for i := 0; i < len(value); i++ {
		c := value[i]
		if c != '\\' {
			b = append(b, c)
			continue
		}
		if i++; i == len(value) {
			return b, fmt.Errorf("%w: value ends in a backslash", errCopyFormat)
		}
		switch c = value[i]; c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		case 'v':
			c = '\v'
		}
		b = append(b, c)
	}
	return b, nil
}
