package protocol

import (
	"math"
	"strconv"

	"github.com/millrace/millrace"
)

// Subprotocol names the native WebSocket transport.
const Subprotocol = "millrace.v1"

// Frame is what a client sends on the native transport: *Open, *TokenFrame,
// *StreamsFrame, CreditFrame, AckFrame or CheckpointRequestFrame. On the wire
// it is a JSON object with exactly one key.
type Frame interface {
	// AppendFrame appends the JSON object.
	AppendFrame(b []byte) []byte
}

// Open is the first frame.
type Open struct {
	Request
	Token string
	// AcceptGzip: frames may be binary, each one gzip member of lines.
	AcceptGzip bool
	// CreditBytes is how many bytes of frame payload the server may send
	// before more credit is given.
	CreditBytes int64
	// StreamsVersion is the version of the request's subscription list; 0 is
	// not written.
	StreamsVersion int64
}

// TokenFrame replaces the credentials. The subject must stay.
type TokenFrame struct{ Token string }

// StreamsFrame replaces the subscription list; the next checkpoint echoes
// Version.
type StreamsFrame struct {
	StreamSelection
	Version int64 // above the one before
}

// CreditFrame lets the server send more bytes of frame payload.
type CreditFrame struct{ Bytes int64 }

// AckFrame tells the last checkpoint the client has applied.
type AckFrame struct{ OpID millrace.OpID }

// CheckpointRequestFrame asks for a write checkpoint: the next number, or ID if
// it is not 0. Sent once the uploads it is to cover have been accepted.
type CheckpointRequestFrame struct{ ID int64 }

// DecodeFrame reads a client's frame.
func DecodeFrame(b []byte) (Frame, error) {
	s := &scanner{b: b}
	var f Frame
	err := s.object(func(k []byte) error {
		if f != nil {
			return wrong("second key %q: a frame has exactly one", k)
		}
		key := string(k)
		var err error
		f, err = s.frame(key)
		return within(key, err)
	})
	if err == nil && f == nil {
		err = wrong("empty object: a frame has exactly one key")
	}
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (s *scanner) frame(key string) (Frame, error) {
	switch key {
	case "open":
		o := &Open{Request: *newRequest()}
		known := s.requestFields(&o.Request)
		known["token"] = stringField(s, &o.Token)
		known["credit_bytes"] = int64Field(s, &o.CreditBytes, 0, math.MaxInt64)
		known["streams_version"] = int64Field(s, &o.StreamsVersion, 0, math.MaxInt64)
		known["accept"] = func() error {
			return s.array(func(int) error {
				w, err := s.str()
				o.AcceptGzip = o.AcceptGzip || w == "gzip"
				return err
			})
		}
		return o, s.fields(known, "token", "credit_bytes")
	case "token":
		t := &TokenFrame{}
		return t, s.fields(map[string]func() error{"token": stringField(s, &t.Token)}, "token")
	case "streams":
		st := &StreamsFrame{StreamSelection: StreamSelection{IncludeDefaults: true}}
		known := s.selectionFields(&st.StreamSelection)
		known["version"] = int64Field(s, &st.Version, 1, math.MaxInt64)
		return st, s.fields(known, "version")
	case "credit":
		var c CreditFrame
		err := s.fields(map[string]func() error{"bytes": int64Field(s, &c.Bytes, 0, math.MaxInt64)}, "bytes")
		return c, err
	case "ack":
		var a AckFrame
		err := s.fields(map[string]func() error{"op_id": opIDField(s, &a.OpID)}, "op_id")
		return a, err
	case "checkpoint_request":
		var r CheckpointRequestFrame
		err := s.fields(map[string]func() error{
			"id": func() (err error) { r.ID, err = s.positiveID(); return err },
		})
		return r, err
	}
	return nil, wrong("unknown frame")
}

// AppendFrame implements Frame.
func (o *Open) AppendFrame(b []byte) []byte {
	b = append(b, `{"open":{`...)
	b = o.appendFields(b)
	b = append(b, `,"token":`...)
	b = millrace.AppendTextJSON(b, o.Token)
	if o.AcceptGzip {
		b = append(b, `,"accept":["gzip"]`...)
	}
	b = append(b, `,"credit_bytes":`...)
	b = strconv.AppendInt(b, o.CreditBytes, 10)
	if o.StreamsVersion != 0 {
		b = append(b, `,"streams_version":`...)
		b = strconv.AppendInt(b, o.StreamsVersion, 10)
	}
	return append(b, '}', '}')
}

// AppendFrame implements Frame.
func (t *TokenFrame) AppendFrame(b []byte) []byte {
	b = append(b, `{"token":{"token":`...)
	return append(millrace.AppendTextJSON(b, t.Token), '}', '}')
}

// AppendFrame implements Frame.
func (f *StreamsFrame) AppendFrame(b []byte) []byte {
	b = append(b, `{"streams":{"version":`...)
	b = append(strconv.AppendInt(b, f.Version, 10), ',')
	return append(f.appendFields(b), '}', '}')
}

// AppendFrame implements Frame.
func (f CreditFrame) AppendFrame(b []byte) []byte {
	b = append(b, `{"credit":{"bytes":`...)
	return append(strconv.AppendInt(b, f.Bytes, 10), '}', '}')
}

// AppendFrame implements Frame.
func (f AckFrame) AppendFrame(b []byte) []byte {
	b = append(b, `{"ack":{"op_id":`...)
	return append(appendID(b, int64(f.OpID)), '}', '}')
}

// AppendFrame implements Frame.
func (f CheckpointRequestFrame) AppendFrame(b []byte) []byte {
	b = append(b, `{"checkpoint_request":{`...)
	if f.ID != 0 {
		b = appendID(append(b, `"id":`...), f.ID)
	}
	return append(b, '}', '}')
}

// Close codes of the native transport. The reason holds the PSYNC_… code.
const (
	CloseRestarting   = 1012 // reconnect with jitter
	CloseOverloaded   = 1013
	CloseMalformed    = 4400
	CloseUnauthorized = 4401 // token missing, invalid or expired
	CloseSubject      = 4403 // a new token named another subject
	CloseNoOpen       = 4408 // no open frame in time
	CloseRules        = 4409 // rules changed incompatibly: reconnect
	CloseTooLarge     = 4413 // message or bucket list
	CloseConnections  = 4429 // connection limit
)
