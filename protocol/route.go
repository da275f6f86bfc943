package protocol

// RSocketSetup is the metadata of a SETUP frame.
type RSocketSetup struct {
	Token     string // as in an Authorization header, scheme included
	UserAgent string
}

// DecodeRSocketSetup reads the metadata of a SETUP frame, a JSON object.
func DecodeRSocketSetup(b []byte) (RSocketSetup, error) {
	var m RSocketSetup
	s := &scanner{b: b}
	err := s.fields(map[string]func() error{
		"token":      stringField(s, &m.Token),
		"user_agent": stringField(s, &m.UserAgent),
	})
	if err == nil {
		err = s.end()
	}
	return m, err
}

// DecodeRSocketRoute reads the path in the metadata of a request, a JSON object.
func DecodeRSocketRoute(b []byte) (path string, err error) {
	s := &scanner{b: b}
	err = s.fields(map[string]func() error{"path": stringField(s, &path)})
	if err == nil {
		err = s.end()
	}
	return path, err
}
