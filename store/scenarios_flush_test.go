package store

import (
	"testing"

	"github.com/millrace/millrace"
)

// TestSA03_PositionsComeWithTheWork: what was given to the writer is in the checkpoint
// that carries its position, also if that brings no changes of its own; there is no
// checkpoint between that has the position without the work.
func TestSA03_PositionsComeWithTheWork(t *testing.T) {
	x := newWorld(t, Options{PieceBytes: 1}) // every change is written at once
	r := openReader(t, x.uri)
	var have millrace.Reduced
	before := x.commit(t, nil)
	x.apply(t, x.row(bucketA, "r1", `{"n":1}`))
	x.apply(t, x.row(bucketA, "r2", `{"n":2}`))
	follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
	if got := device(&have); len(got) != 0 {
		t.Errorf("before the position came, a device has %v", got)
	}
	c := x.commit(t, nil) // a position alone
	if c.Seq != before.Seq+1 || c.OpID != before.OpID+2 {
		t.Errorf("checkpoint %+v after %+v", c, before)
	}
	follow(t, r, x.set.Definitions[0].ID, bucketA, &have)
	equal(t, []string{`lists/r1/ {"n":1}`, `lists/r2/ {"n":2}`}, device(&have))
	equal(t, x.lsn.String(), value[string](t, x.conn, `SELECT lsns->>'1' FROM millrace.checkpoint_log ORDER BY seq DESC LIMIT 1`))
	// Another one, with nothing to carry: the position moves, the number does not.
	if next := x.commit(t, nil); next.Seq != c.Seq+1 || next.OpID != c.OpID {
		t.Errorf("checkpoint %+v after %+v", next, c)
	}
}
