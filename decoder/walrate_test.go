package decoder

import (
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// P80: the forecast follows the last hour, and begins anew on another server.
func TestWALRate(t *testing.T) {
	var r walRate
	at, head := time.Unix(0, 0), millrace.LSN(1000)
	if got := r.add(at, head); got != -1 {
		t.Errorf("after one sample: %d", got)
	}
	step := func(n int, every time.Duration, bytes millrace.LSN) (got int64) {
		for range n {
			at, head = at.Add(every), head+bytes
			got = r.add(at, head)
		}
		return got
	}
	if got := step(60, 2*time.Second, 2000); got != 3_600_000 {
		t.Errorf("1000 bytes a second are %d an hour", got)
	}
	if got := step(2*1800, 2*time.Second, 4000); got != 7_200_000 {
		t.Errorf("2000 bytes a second for two hours are %d an hour", got)
	}
	if n := len(r.samples); n > 62 {
		t.Errorf("%d samples are kept", n)
	}
	head = 5
	if got := r.add(at.Add(time.Hour), head); got != -1 {
		t.Errorf("after the head went back: %d", got)
	}
}
