package catalog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot tells which transactions were visible when it was taken
// (pg_snapshot): all below Xmin, none from Xmax on, and between them those that
// are not in progress. Ids are 64 bits wide. The zero Snapshot sees nothing.
type Snapshot struct {
	Xmin, Xmax uint64
	InProgress []uint64 // ascending
}

// ParseSnapshot reads Postgres's text form, "xmin:xmax:xip,xip".
func ParseSnapshot(text string) (Snapshot, error) {
	var s Snapshot
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("snapshot %q: expected xmin:xmax:list", text)
	}
	var err error
	if s.Xmin, err = strconv.ParseUint(parts[0], 10, 64); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
	}
	if s.Xmax, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
	}
	if s.Xmin > s.Xmax {
		return Snapshot{}, fmt.Errorf("snapshot %q: xmin above xmax", text)
	}
	if parts[2] == "" {
		return s, nil
	}
	for _, x := range strings.Split(parts[2], ",") {
		id, err := strconv.ParseUint(x, 10, 64)
		if err != nil {
			return Snapshot{}, fmt.Errorf("snapshot %q: %w", text, err)
		}
		if id < s.Xmin || id >= s.Xmax {
			return Snapshot{}, fmt.Errorf("snapshot %q: %d outside its bounds", text, id)
		}
		s.InProgress = append(s.InProgress, id)
	}
	slices.Sort(s.InProgress)
	return s, nil
}

// String gives Postgres's text form.
func (s Snapshot) String() string {
	b := fmt.Appendf(nil, "%d:%d:", s.Xmin, s.Xmax)
	for i, x := range s.InProgress {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, x, 10)
	}
	return string(b)
}

// Visible tells whether what transaction xid did can be seen.
func (s Snapshot) Visible(xid uint64) bool {
	if xid < s.Xmin {
		return true
	}
	if xid >= s.Xmax {
		return false
	}
	_, running := slices.BinarySearch(s.InProgress, xid)
	return !running
}

// Widen gives the 64-bit id whose low half is xid and that is nearest to ref,
// for example the newest Xmax seen.
func Widen(xid uint32, ref uint64) uint64 {
	return ref + uint64(int64(int32(xid-uint32(ref))))
}
