package protocol

import (
	"strconv"

	"github.com/millrace/millrace"
)

// Line is one object a server streams: Checkpoint, CheckpointDiff, Data,
// CheckpointComplete, PartialCheckpointComplete, TokenExpiresIn, and on the
// native transport StreamError and CheckpointRequestReply. Decoding also gives
// Unknown. On the wire it is a JSON object with exactly one key.
type Line interface {
	// AppendLine appends the JSON object, without a line end.
	AppendLine(b []byte) []byte
	// AppendBSON appends the same as a BSON document.
	AppendBSON(b []byte) []byte
}

// Checkpoint is the complete state clients may reach: the first line of every
// stream, and allowed at any later time.
type Checkpoint struct {
	LastOpID millrace.OpID
	// WriteCheckpoint is the user's newest acknowledged one; 0 for none.
	WriteCheckpoint int64
	// Buckets is the complete list; the client drops others it holds.
	Buckets []Bucket
	// Streams lists the streams in force; subscriptions refer to it by index.
	Streams []Stream
	// StreamsVersion echoes the version of the client's last subscription
	// list. Native transport only; 0 is not written.
	StreamsVersion int64
}

// Bucket is what a checkpoint says of one bucket.
type Bucket struct {
	Name     string
	Checksum millrace.Checksum
	Count    int64 // ops a new client would download
	Priority int   // 0 most urgent to 3
	// Subscriptions says why the client gets the bucket.
	Subscriptions []Reason
}

// Reason is why a bucket is included: {"default": Index}, an index into the
// checkpoint's streams, or {"sub": Index}, one into the request's subscriptions.
type Reason struct {
	Default bool
	Index   int
}

// Stream is a stream in force for a connection.
type Stream struct {
	Name      string
	IsDefault bool
	Errors    []StreamIssue
}

// DefaultSubscription is the StreamIssue.Subscription of a stream evaluated by
// default.
const DefaultSubscription = -1

// StreamIssue tells why a subscription gives nothing.
type StreamIssue struct {
	Subscription int // index into the request's subscriptions, or DefaultSubscription
	Message      string
}

// CheckpointDiff moves on from the last Checkpoint or CheckpointDiff sent,
// completed or not.
type CheckpointDiff struct {
	LastOpID millrace.OpID
	// WriteCheckpoint is not inherited from the line before; 0 for none.
	WriteCheckpoint int64
	UpdatedBuckets  []Bucket // changed and new ones
	RemovedBuckets  []string
}

// Data is a run of ops of one bucket in ascending order.
type Data struct {
	Bucket    string
	After     millrace.OpID // position before this line
	NextAfter millrace.OpID // position after it
	HasMore   bool          // more ops of this bucket follow for this checkpoint
	Ops       []millrace.Op
}

// CheckpointComplete says that every op of the current checkpoint was sent.
type CheckpointComplete struct{ LastOpID millrace.OpID }

// PartialCheckpointComplete says that every op of the buckets of this priority
// and more urgent ones was sent.
type PartialCheckpointComplete struct {
	LastOpID millrace.OpID
	Priority int
}

// TokenExpiresIn is the seconds until the token expires, and a keepalive.
type TokenExpiresIn int32

// StreamError is an error told inside a stream of the native transport.
type StreamError struct {
	Code        string // PSYNC_S…
	Description string
	Fatal       bool // the stream ends
}

// CheckpointRequestReply answers a CheckpointRequest frame with the write
// checkpoint the server holds after it.
type CheckpointRequestReply struct{ ID int64 }

// Unknown is a line this version does not know; clients ignore it.
type Unknown struct {
	Key string
	Raw []byte // the value's JSON text
}

// AppendLine implements Line.
func (c *Checkpoint) AppendLine(b []byte) []byte {
	b = append(b, `{"checkpoint":{"last_op_id":`...)
	b = appendID(b, int64(c.LastOpID))
	b = appendWriteCheckpoint(b, c.WriteCheckpoint)
	b = append(b, `,"buckets":`...)
	b = appendBuckets(b, c.Buckets)
	b = append(b, `,"streams":[`...)
	for i := range c.Streams {
		if i > 0 {
			b = append(b, ',')
		}
		b = c.Streams[i].append(b)
	}
	b = append(b, ']')
	if c.StreamsVersion != 0 {
		b = append(b, `,"streams_version":`...)
		b = strconv.AppendInt(b, c.StreamsVersion, 10)
	}
	return append(b, '}', '}')
}

// AppendLine implements Line.
func (c *CheckpointDiff) AppendLine(b []byte) []byte {
	b = append(b, `{"checkpoint_diff":{"last_op_id":`...)
	b = appendID(b, int64(c.LastOpID))
	b = appendWriteCheckpoint(b, c.WriteCheckpoint)
	b = append(b, `,"updated_buckets":`...)
	b = appendBuckets(b, c.UpdatedBuckets)
	b = append(b, `,"removed_buckets":[`...)
	for i, name := range c.RemovedBuckets {
		if i > 0 {
			b = append(b, ',')
		}
		b = millrace.AppendTextJSON(b, name)
	}
	return append(b, ']', '}', '}')
}

func appendWriteCheckpoint(b []byte, id int64) []byte {
	if id == 0 {
		return b
	}
	return appendID(append(b, `,"write_checkpoint":`...), id)
}

func appendBuckets(b []byte, buckets []Bucket) []byte {
	b = append(b, '[')
	for i := range buckets {
		if i > 0 {
			b = append(b, ',')
		}
		b = buckets[i].append(b)
	}
	return append(b, ']')
}

func (k *Bucket) append(b []byte) []byte {
	b = append(b, `{"bucket":`...)
	b = millrace.AppendTextJSON(b, k.Name)
	b = append(b, `,"checksum":`...)
	b = strconv.AppendUint(b, uint64(k.Checksum), 10)
	b = append(b, `,"count":`...)
	b = strconv.AppendInt(b, k.Count, 10)
	b = append(b, `,"priority":`...)
	b = strconv.AppendInt(b, int64(k.Priority), 10)
	b = append(b, `,"subscriptions":[`...)
	for i, r := range k.Subscriptions {
		if i > 0 {
			b = append(b, ',')
		}
		if r.Default {
			b = append(b, `{"default":`...)
		} else {
			b = append(b, `{"sub":`...)
		}
		b = append(strconv.AppendInt(b, int64(r.Index), 10), '}')
	}
	return append(b, ']', '}')
}

func (s *Stream) append(b []byte) []byte {
	b = append(b, `{"name":`...)
	b = millrace.AppendTextJSON(b, s.Name)
	b = append(b, `,"is_default":`...)
	b = strconv.AppendBool(b, s.IsDefault)
	b = append(b, `,"errors":[`...)
	for i, e := range s.Errors {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"subscription":`...)
		if e.Subscription == DefaultSubscription {
			b = append(b, `"default"`...)
		} else {
			b = strconv.AppendInt(b, int64(e.Subscription), 10)
		}
		b = append(b, `,"message":`...)
		b = append(millrace.AppendTextJSON(b, e.Message), '}')
	}
	return append(b, ']', '}')
}

// AppendLine implements Line: op data is a string of JSON.
func (d *Data) AppendLine(b []byte) []byte { return d.append(b, JSON) }

// AppendNestedLine is AppendLine for clients that did not ask for raw data: op
// data is a nested object.
func (d *Data) AppendNestedLine(b []byte) []byte { return d.append(b, NestedJSON) }

func (d *Data) append(b []byte, e Encoding) []byte {
	b = appendDataHead(b, d.Bucket, d.After, d.NextAfter, d.HasMore)
	for i := range d.Ops {
		b = e.AppendOp(b, i, &d.Ops[i])
	}
	return append(b, "]}}"...)
}

func appendDataHead(b []byte, bucket string, after, nextAfter millrace.OpID, hasMore bool) []byte {
	b = append(b, `{"data":{"bucket":`...)
	b = millrace.AppendTextJSON(b, bucket)
	b = append(b, `,"after":`...)
	b = appendID(b, int64(after))
	b = append(b, `,"next_after":`...)
	b = appendID(b, int64(nextAfter))
	b = append(b, `,"has_more":`...)
	b = strconv.AppendBool(b, hasMore)
	return append(b, `,"data":[`...)
}

func appendOp(b []byte, op *millrace.Op, e Encoding) []byte {
	b = append(b, `{"op_id":`...)
	b = appendID(b, int64(op.ID))
	b = append(b, `,"op":"`...)
	b = append(b, op.Kind.String()...)
	b = append(b, '"')
	row := op.Kind == millrace.OpPut || op.Kind == millrace.OpRemove
	if row {
		b = append(b, `,"object_type":`...)
		b = millrace.AppendTextJSON(b, op.Type)
		b = append(b, `,"object_id":`...)
		b = millrace.AppendTextJSON(b, op.RowID)
		if op.Subkey != "" {
			b = append(b, `,"subkey":`...)
			b = millrace.AppendTextJSON(b, op.Subkey)
		}
	}
	b = append(b, `,"checksum":`...)
	b = strconv.AppendUint(b, uint64(op.Checksum), 10)
	switch {
	case op.Kind == millrace.OpRemove:
		b = append(b, `,"data":null`...)
	case op.Kind != millrace.OpPut:
	case e == NestedJSON:
		b = append(b, `,"data":`...)
		b = append(b, op.Data...)
	default:
		b = append(b, `,"data":`...)
		b = millrace.AppendTextJSON(b, op.Data)
	}
	return append(b, '}')
}

// AppendLine implements Line.
func (c CheckpointComplete) AppendLine(b []byte) []byte {
	b = append(b, `{"checkpoint_complete":{"last_op_id":`...)
	return append(appendID(b, int64(c.LastOpID)), '}', '}')
}

// AppendLine implements Line.
func (c PartialCheckpointComplete) AppendLine(b []byte) []byte {
	b = append(b, `{"partial_checkpoint_complete":{"last_op_id":`...)
	b = append(appendID(b, int64(c.LastOpID)), `,"priority":`...)
	return append(strconv.AppendInt(b, int64(c.Priority), 10), '}', '}')
}

// AppendLine implements Line.
func (t TokenExpiresIn) AppendLine(b []byte) []byte {
	b = append(b, `{"token_expires_in":`...)
	return append(strconv.AppendInt(b, int64(t), 10), '}')
}

// AppendLine implements Line.
func (e *StreamError) AppendLine(b []byte) []byte {
	b = append(b, `{"error":{"code":`...)
	b = millrace.AppendTextJSON(b, e.Code)
	b = append(b, `,"description":`...)
	b = millrace.AppendTextJSON(b, e.Description)
	b = append(b, `,"fatal":`...)
	return append(strconv.AppendBool(b, e.Fatal), '}', '}')
}

// AppendLine implements Line.
func (r CheckpointRequestReply) AppendLine(b []byte) []byte {
	b = append(b, `{"checkpoint_request":{"id":`...)
	return append(appendID(b, r.ID), '}', '}')
}

// AppendLine implements Line.
func (u *Unknown) AppendLine(b []byte) []byte {
	b = append(b, '{')
	b = millrace.AppendTextJSON(b, u.Key)
	b = append(b, ':')
	return append(append(b, u.Raw...), '}')
}

func appendID(b []byte, id int64) []byte {
	b = append(b, '"')
	return append(strconv.AppendInt(b, id, 10), '"')
}
