package protocol

import (
	"math"

	"github.com/millrace/millrace"
)

// DecodeLine reads one line a server streamed. The result shares no memory with
// b. Op data may be a string of JSON or a nested object; a line with an unknown
// key gives *Unknown, a line with two keys is an error.
func DecodeLine(b []byte) (Line, error) {
	s := &scanner{b: b}
	var line Line
	err := s.object(func(k []byte) error {
		if line != nil {
			return wrong("second key %q: a line has exactly one", k)
		}
		key := string(k)
		var err error
		line, err = s.line(key)
		return within(key, err)
	})
	if err == nil && line == nil {
		err = wrong("empty object: a line has exactly one key")
	}
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	return line, nil
}

func (s *scanner) line(key string) (Line, error) {
	switch key {
	case "checkpoint":
		return s.checkpoint()
	case "checkpoint_diff":
		return s.checkpointDiff()
	case "data":
		return s.data()
	case "checkpoint_complete":
		var c CheckpointComplete
		err := s.fields(map[string]func() error{"last_op_id": opIDField(s, &c.LastOpID)})
		return c, err
	case "partial_checkpoint_complete":
		var c PartialCheckpointComplete
		err := s.fields(map[string]func() error{
			"last_op_id": opIDField(s, &c.LastOpID),
			"priority":   intField(s, &c.Priority, 0, math.MaxInt32-1),
		}, "priority")
		return c, err
	case "token_expires_in":
		n, err := s.integer(math.MinInt32, math.MaxInt32)
		return TokenExpiresIn(n), err
	case "error":
		e := &StreamError{}
		err := s.fields(map[string]func() error{
			"code":        stringField(s, &e.Code),
			"description": stringField(s, &e.Description),
			"fatal":       boolField(s, &e.Fatal),
		}, "code")
		return e, err
	case "checkpoint_request":
		var r CheckpointRequestReply
		err := s.fields(map[string]func() error{"id": idField(s, &r.ID)}, "id")
		return r, err
	}
	raw, err := s.raw()
	if err != nil {
		return nil, err
	}
	return &Unknown{Key: key, Raw: append([]byte(nil), raw...)}, nil
}

// fields reads an object with the given fields, skipping unknown ones and nulls.
func (s *scanner) fields(known map[string]func() error, required ...string) error {
	missing := map[string]bool{}
	for _, r := range required {
		missing[r] = true
	}
	err := s.object(func(key []byte) error {
		read := known[string(key)]
		if read == nil {
			return s.skip()
		}
		name := string(key)
		if s.null() {
			return nil
		}
		delete(missing, name)
		return within(name, read())
	})
	if err != nil {
		return err
	}
	for _, r := range required {
		if missing[r] {
			return &Error{Path: r, Message: "missing"}
		}
	}
	return nil
}

func opIDField(s *scanner, p *millrace.OpID) func() error {
	return func() (err error) { *p, err = s.opID(); return err }
}

func idField(s *scanner, p *int64) func() error {
	return func() (err error) { *p, err = s.id(); return err }
}

func stringField(s *scanner, p *string) func() error {
	return func() (err error) { *p, err = s.str(); return err }
}

func boolField(s *scanner, p *bool) func() error {
	return func() (err error) { *p, err = s.boolean(); return err }
}

func intField(s *scanner, p *int, low, high int64) func() error {
	return func() error {
		n, err := s.integer(low, high)
		*p = int(n)
		return err
	}
}

func int64Field(s *scanner, p *int64, low, high int64) func() error {
	return func() (err error) { *p, err = s.integer(low, high); return err }
}

func (s *scanner) checkpoint() (*Checkpoint, error) {
	c := &Checkpoint{}
	err := s.fields(map[string]func() error{
		"last_op_id":       opIDField(s, &c.LastOpID),
		"write_checkpoint": idField(s, &c.WriteCheckpoint),
		"buckets":          func() error { return s.buckets(&c.Buckets) },
		"streams":          func() error { return s.streams(&c.Streams) },
		"streams_version":  int64Field(s, &c.StreamsVersion, 0, math.MaxInt64),
	}, "last_op_id", "buckets")
	return c, err
}

func (s *scanner) checkpointDiff() (*CheckpointDiff, error) {
	c := &CheckpointDiff{}
	err := s.fields(map[string]func() error{
		"last_op_id":       opIDField(s, &c.LastOpID),
		"write_checkpoint": idField(s, &c.WriteCheckpoint),
		"updated_buckets":  func() error { return s.buckets(&c.UpdatedBuckets) },
		"removed_buckets": func() error {
			return s.array(func(int) error {
				name, err := s.str()
				c.RemovedBuckets = append(c.RemovedBuckets, name)
				return err
			})
		},
	}, "last_op_id", "updated_buckets", "removed_buckets")
	return c, err
}

func (s *scanner) buckets(out *[]Bucket) error {
	var k *Bucket
	known := map[string]func() error{
		"bucket": func() (err error) { k.Name, err = s.str(); return err },
		"checksum": func() (err error) {
			k.Checksum, err = s.checksum()
			return err
		},
		"count":         func() (err error) { k.Count, err = s.integer(0, math.MaxInt64); return err },
		"priority":      func() error { n, err := s.integer(0, math.MaxInt32-1); k.Priority = int(n); return err },
		"subscriptions": func() error { return s.reasons(&k.Subscriptions) },
	}
	return s.array(func(int) error {
		*out = append(*out, Bucket{Priority: 3})
		k = &(*out)[len(*out)-1]
		return s.fields(known, "bucket", "checksum")
	})
}

// checksum reads a sum of 32 bits, written unsigned or as a negative int32.
func (s *scanner) checksum() (millrace.Checksum, error) {
	n, err := s.integer(math.MinInt32, math.MaxUint32)
	return millrace.Checksum(n), err
}

func (s *scanner) reasons(out *[]Reason) error {
	return s.array(func(int) error {
		n := 0
		var r Reason
		err := s.object(func(key []byte) error {
			n++
			switch string(key) {
			case "default":
				r.Default = true
			case "sub":
			default:
				return wrong("unknown key %q", key)
			}
			i, err := s.integer(0, math.MaxInt32)
			r.Index = int(i)
			return err
		})
		if err == nil && n != 1 {
			err = wrong("has %d keys instead of one", n)
		}
		*out = append(*out, r)
		return err
	})
}

func (s *scanner) streams(out *[]Stream) error {
	return s.array(func(int) error {
		var st Stream
		err := s.fields(map[string]func() error{
			"name":       stringField(s, &st.Name),
			"is_default": boolField(s, &st.IsDefault),
			"errors": func() error {
				return s.array(func(int) error {
					var e StreamIssue
					err := s.fields(map[string]func() error{
						"subscription": func() error { return s.subscriptionIndex(&e.Subscription) },
						"message":      stringField(s, &e.Message),
					}, "subscription")
					st.Errors = append(st.Errors, e)
					return err
				})
			},
		}, "name")
		*out = append(*out, st)
		return err
	})
}

func (s *scanner) subscriptionIndex(p *int) error {
	if s.peek() != '"' {
		return intField(s, p, 0, math.MaxInt32)()
	}
	w, err := s.str()
	if err == nil && w != "default" {
		err = wrong("%.40q is neither an index nor \"default\"", w)
	}
	*p = DefaultSubscription
	return err
}

func (s *scanner) data() (*Data, error) {
	d := &Data{}
	err := s.fields(map[string]func() error{
		"bucket":     stringField(s, &d.Bucket),
		"after":      opIDField(s, &d.After),
		"next_after": opIDField(s, &d.NextAfter),
		"has_more":   boolField(s, &d.HasMore),
		"data":       func() error { return s.ops(&d.Ops) },
	}, "bucket", "data")
	if err == nil && d.NextAfter == 0 && len(d.Ops) > 0 {
		d.NextAfter = d.Ops[len(d.Ops)-1].ID
	}
	return d, err
}

// ops reads the ops of a data line; the row path of a client, so without a map.
func (s *scanner) ops(out *[]millrace.Op) error {
	var typ string // ops of one line mostly share their type
	return s.array(func(int) error {
		var op millrace.Op
		var id, sum bool
		err := s.object(func(key []byte) error {
			var err error
			switch string(key) {
			case "op_id":
				id = true
				op.ID, err = s.opID()
				return within("op_id", err)
			case "op":
				return within("op", s.opKind(&op.Kind))
			case "checksum":
				sum = true
				op.Checksum, err = s.checksum()
				return within("checksum", err)
			case "object_type":
				if s.null() {
					return nil
				}
				var b []byte
				if b, err = s.bytes(&s.text); err != nil {
					return within("object_type", err)
				}
				if typ != string(b) {
					typ = string(b)
				}
				op.Type = typ
				return nil
			case "object_id":
				if s.null() {
					return nil
				}
				op.RowID, err = s.str()
				return within("object_id", err)
			case "subkey":
				if s.null() {
					return nil
				}
				op.Subkey, err = s.str()
				return within("subkey", err)
			case "data":
				return within("data", s.opData(&op.Data))
			}
			return s.skip()
		})
		switch {
		case err != nil:
			return err
		case !id:
			return &Error{Path: "op_id", Message: "missing"}
		case op.Kind == 0:
			return &Error{Path: "op", Message: "missing"}
		case !sum:
			return &Error{Path: "checksum", Message: "missing"}
		}
		switch op.Kind {
		case millrace.OpPut, millrace.OpRemove:
			if op.Type == "" || op.RowID == "" {
				return wrong("%s without object_type or object_id", op.Kind)
			}
			if op.Kind == millrace.OpPut && op.Data == "" {
				return &Error{Path: "data", Message: "missing"}
			}
			if op.Kind == millrace.OpRemove {
				op.Data = ""
			}
		default:
			op.Type, op.RowID, op.Subkey, op.Data = "", "", "", ""
		}
		*out = append(*out, op)
		return nil
	})
}

func (s *scanner) opKind(p *millrace.OpKind) error {
	b, err := s.bytes(&s.text)
	if err != nil {
		return err
	}
	for k := millrace.OpPut; k <= millrace.OpClear; k++ {
		if k.String() == string(b) {
			*p = k
			return nil
		}
	}
	return wrong("%.40q is not an op", b)
}

func (s *scanner) opData(p *string) error {
	switch s.peek() {
	case 'n':
		if s.null() {
			return nil
		}
	case '{':
		b, err := s.raw()
		*p = string(b)
		return err
	}
	var err error
	*p, err = s.str()
	return err
}
