package relay

import "github.com/millrace/millrace/protocol"

// output collects lines to send, in order. Chunks hold whole lines, each ended
// by '\n'; some are private to the session, others shared between sessions
// and never modified.
type output struct {
	chunks  [][]byte
	private bool // the last chunk is private and may grow
	ops     int
	// completed is set if the lines end with a checkpoint_complete.
	completed bool
}

// line appends a line of this session's own.
func (o *output) line(l protocol.Line) {
	if !o.private {
		o.chunks = append(o.chunks, nil)
		o.private = true
	}
	last := &o.chunks[len(o.chunks)-1]
	*last = append(l.AppendLine(*last), '\n')
}

// shared appends finished lines that others send too.
func (o *output) shared(lines []byte, ops int) {
	o.chunks = append(o.chunks, lines)
	o.private = false
	o.ops += ops
}

func (o *output) empty() bool { return len(o.chunks) == 0 }

func (o *output) size() (n int) {
	for _, c := range o.chunks {
		n += len(c)
	}
	return n
}
