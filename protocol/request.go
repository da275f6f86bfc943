package protocol

import (
	"sort"
	"strconv"

	"github.com/millrace/millrace"
)

// Limits of a request beyond its size, which the transport bounds.
const (
	MaxClientIDBytes = 256
	MaxSubscriptions = 10_000
	MaxPriority      = 3
)

// Request is the StreamingSyncRequest: the body of POST /sync/stream, and part
// of the native transport's open frame.
type Request struct {
	Buckets []BucketPosition
	// RawData: op data is to be a string of JSON rather than an object.
	RawData bool
	// IncludeChecksum and BinaryData are sent by clients and mean nothing.
	IncludeChecksum, BinaryData bool
	// ClientID names the device; with the token's subject it names the counter
	// of write checkpoints. At most MaxClientIDBytes, no control characters.
	ClientID string
	// Parameters is the text of a JSON object, nil for none. Unverified.
	Parameters  []byte
	Streams     StreamSelection
	AppMetadata map[string]string
}

// BucketPosition says that the client holds a bucket up to and including After,
// which need not be the id of an op of that bucket.
type BucketPosition struct {
	Name  string
	After millrace.OpID
}

// StreamSelection is which streams a client wants. The order of Subscriptions
// is their identity for the connection.
type StreamSelection struct {
	IncludeDefaults bool // true when absent
	Subscriptions   []Subscription
}

// Subscription is one subscribed stream.
type Subscription struct {
	Stream string
	// Parameters is the text of a JSON object, nil for null or absent.
	Parameters []byte
	// Priority replaces the stream's own unless it is DefaultPriority.
	Priority int
}

// DefaultPriority is the Subscription.Priority that keeps the stream's own.
const DefaultPriority = -1

// DecodeRequest reads a StreamingSyncRequest. Unknown fields are accepted. The
// result shares no memory with b.
func DecodeRequest(b []byte) (*Request, error) {
	s := &scanner{b: b}
	r := newRequest()
	err := s.fields(s.requestFields(r))
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func newRequest() *Request {
	return &Request{Streams: StreamSelection{IncludeDefaults: true}}
}

func (s *scanner) requestFields(r *Request) map[string]func() error {
	return map[string]func() error{
		"buckets":          func() error { return s.positions(&r.Buckets) },
		"raw_data":         boolField(s, &r.RawData),
		"include_checksum": boolField(s, &r.IncludeChecksum),
		"binary_data":      boolField(s, &r.BinaryData),
		"client_id":        func() error { return s.clientID(&r.ClientID) },
		"parameters":       func() (err error) { r.Parameters, err = s.rawObject(); return err },
		"streams":          func() error { return s.fields(s.selectionFields(&r.Streams)) },
		"app_metadata":     func() error { return s.metadata(&r.AppMetadata) },
	}
}

func (s *scanner) positions(out *[]BucketPosition) error {
	return s.array(func(int) error {
		var p BucketPosition
		var name, after bool
		err := s.object(func(key []byte) error {
			var err error
			switch string(key) {
			case "name":
				name = true
				p.Name, err = s.str()
				return within("name", err)
			case "after":
				after = true
				p.After, err = s.opID()
				return within("after", err)
			}
			return s.skip()
		})
		switch {
		case err != nil:
			return err
		case !name:
			return &Error{Path: "name", Message: "missing"}
		case !after:
			return &Error{Path: "after", Message: "missing"}
		}
		*out = append(*out, p)
		return nil
	})
}

func (s *scanner) clientID(p *string) error {
	id, err := s.str()
	if err == nil {
		err = CheckClientID(id)
	}
	*p = id
	return err
}

// CheckClientID tells what is wrong with a client id, nil if nothing is.
func CheckClientID(id string) error {
	if len(id) > MaxClientIDBytes {
		return wrong("longer than %d bytes", MaxClientIDBytes)
	}
	for i := range len(id) {
		if id[i] < 0x20 || id[i] == 0x7f {
			return wrong("holds a control character")
		}
	}
	return nil
}

func (s *scanner) selectionFields(sel *StreamSelection) map[string]func() error {
	return map[string]func() error{
		"include_defaults": boolField(s, &sel.IncludeDefaults),
		"subscriptions": func() error {
			return s.array(func(i int) error {
				if i >= MaxSubscriptions {
					return wrong("more than %d subscriptions", MaxSubscriptions)
				}
				sub := Subscription{Priority: DefaultPriority}
				err := s.fields(map[string]func() error{
					"stream":            stringField(s, &sub.Stream),
					"parameters":        func() (err error) { sub.Parameters, err = s.rawObject(); return err },
					"override_priority": intField(s, &sub.Priority, 0, MaxPriority),
				}, "stream")
				sel.Subscriptions = append(sel.Subscriptions, sub)
				return err
			})
		},
	}
}

func (s *scanner) metadata(out *map[string]string) error {
	return s.object(func(key []byte) error {
		name := string(key)
		v, err := s.str()
		if *out == nil {
			*out = map[string]string{}
		}
		(*out)[name] = v
		return within(name, err)
	})
}

// AppendJSON appends the request as clients send it.
func (r *Request) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	b = r.appendFields(b)
	return append(b, '}')
}

func (r *Request) appendFields(b []byte) []byte {
	b = append(b, `"buckets":[`...)
	for i, p := range r.Buckets {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"name":`...)
		b = millrace.AppendTextJSON(b, p.Name)
		b = append(b, `,"after":`...)
		b = append(appendID(b, int64(p.After)), '}')
	}
	b = append(b, `],"include_checksum":`...)
	b = strconv.AppendBool(b, r.IncludeChecksum)
	b = append(b, `,"raw_data":`...)
	b = strconv.AppendBool(b, r.RawData)
	b = append(b, `,"binary_data":`...)
	b = strconv.AppendBool(b, r.BinaryData)
	if r.ClientID != "" {
		b = append(b, `,"client_id":`...)
		b = millrace.AppendTextJSON(b, r.ClientID)
	}
	if r.Parameters != nil {
		b = append(b, `,"parameters":`...)
		b = append(b, r.Parameters...)
	}
	b = append(b, `,"streams":{`...)
	b = r.Streams.appendFields(b)
	b = append(b, '}')
	if len(r.AppMetadata) > 0 {
		b = append(b, `,"app_metadata":{`...)
		names := make([]string, 0, len(r.AppMetadata))
		for name := range r.AppMetadata {
			names = append(names, name)
		}
		sort.Strings(names)
		for i, name := range names {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(millrace.AppendTextJSON(b, name), ':')
			b = millrace.AppendTextJSON(b, r.AppMetadata[name])
		}
		b = append(b, '}')
	}
	return b
}

func (sel *StreamSelection) appendFields(b []byte) []byte {
	b = append(b, `"include_defaults":`...)
	b = strconv.AppendBool(b, sel.IncludeDefaults)
	b = append(b, `,"subscriptions":[`...)
	for i := range sel.Subscriptions {
		sub := &sel.Subscriptions[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"stream":`...)
		b = millrace.AppendTextJSON(b, sub.Stream)
		b = append(b, `,"parameters":`...)
		if sub.Parameters == nil {
			b = append(b, "null"...)
		} else {
			b = append(b, sub.Parameters...)
		}
		b = append(b, `,"override_priority":`...)
		if sub.Priority == DefaultPriority {
			b = append(b, "null"...)
		} else {
			b = strconv.AppendInt(b, int64(sub.Priority), 10)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}
