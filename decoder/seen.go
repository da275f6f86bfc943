package decoder

// seenRows are the rows of a table that the stream has told of since a copy of
// it was registered: only they can be in the definitions that the copy fills.
// The zero value knows nothing, and takes every row for one of them.
type seenRows struct{ keys map[string]struct{} }

// maxSeen bounds the rows. Beyond it all may have been seen.
const maxSeen = 200_000

// begin is called when nothing has been seen.
func (s *seenRows) begin() { s.keys = map[string]struct{}{} }

// forget is called when any row may have been seen.
func (s *seenRows) forget() { s.keys = nil }

func (s *seenRows) add(key string) {
	if s.keys == nil {
		return
	}
	if len(s.keys) >= maxSeen {
		s.forget()
		return
	}
	s.keys[key] = struct{}{}
}

// unknown tells whether a row is certain not to have been seen.
func (s *seenRows) unknown(key string) bool {
	if s.keys == nil {
		return false
	}
	_, ok := s.keys[key]
	return !ok
}
