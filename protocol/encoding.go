package protocol

import (
	"strings"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/protocol/bson"
)

// Encoding is what lines are written in. The zero value is JSON.
type Encoding uint8

// The encodings.
const (
	// JSON is one object per text line; op data are strings of JSON.
	JSON Encoding = iota
	// NestedJSON is JSON for old clients, which do not set raw_data: op data
	// are objects.
	NestedJSON
	// BSON is one document per line, one after the other without anything in
	// between; op data are strings of JSON.
	BSON
)

// AppendLine appends a line, ended as a stream wants it.
func (e Encoding) AppendLine(b []byte, l Line) []byte {
	if e == BSON {
		return l.AppendBSON(b)
	}
	if d, ok := l.(*Data); ok {
		b = d.append(b, e)
	} else {
		b = l.AppendLine(b)
	}
	return append(b, '\n')
}

// AppendOp appends an op of a data line; index is its place among the line's ops.
func (e Encoding) AppendOp(b []byte, index int, op *millrace.Op) []byte {
	if e == BSON {
		return appendOpBSON(b, index, op)
	}
	if index > 0 {
		b = append(b, ',')
	}
	return appendOp(b, op, e)
}

// AppendData appends a data line, ended as a stream wants it. ops is what
// AppendOp wrote.
func (e Encoding) AppendData(b []byte, bucket string, after, nextAfter millrace.OpID, hasMore bool, ops []byte) []byte {
	if e == BSON {
		return appendDataBSON(b, bucket, after, nextAfter, hasMore, ops)
	}
	b = appendDataHead(b, bucket, after, nextAfter, hasMore)
	b = append(b, ops...)
	return append(b, "]}}\n"...)
}

// AppendBSON implements Line.
func (c *Checkpoint) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	b, at := bson.BeginDocument(b, "checkpoint")
	b = bson.AppendDigits(b, "last_op_id", int64(c.LastOpID))
	b = appendWriteCheckpointBSON(b, c.WriteCheckpoint)
	b = appendBucketsBSON(b, "buckets", c.Buckets)
	b, streams := bson.BeginArray(b, "streams")
	for i := range c.Streams {
		b = c.Streams[i].appendBSON(b, i)
	}
	b = bson.End(b, streams)
	if c.StreamsVersion != 0 {
		b = bson.AppendInt(b, "streams_version", c.StreamsVersion)
	}
	return bson.End(bson.End(b, at), line)
}

// AppendBSON implements Line.
func (c *CheckpointDiff) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	b, at := bson.BeginDocument(b, "checkpoint_diff")
	b = bson.AppendDigits(b, "last_op_id", int64(c.LastOpID))
	b = appendWriteCheckpointBSON(b, c.WriteCheckpoint)
	b = appendBucketsBSON(b, "updated_buckets", c.UpdatedBuckets)
	b, removed := bson.BeginArray(b, "removed_buckets")
	for i, name := range c.RemovedBuckets {
		b = bson.AppendStringItem(b, i, name)
	}
	return bson.End(bson.End(bson.End(b, removed), at), line)
}

func appendWriteCheckpointBSON(b []byte, id int64) []byte {
	if id == 0 {
		return b
	}
	return bson.AppendDigits(b, "write_checkpoint", id)
}

func appendBucketsBSON(b []byte, key string, buckets []Bucket) []byte {
	b, list := bson.BeginArray(b, key)
	for i := range buckets {
		k := &buckets[i]
		var at, reasons int
		b, at = bson.BeginItem(b, i)
		b = bson.AppendString(b, "bucket", k.Name)
		b = bson.AppendInt(b, "checksum", int64(k.Checksum))
		b = bson.AppendInt(b, "count", k.Count)
		b = bson.AppendInt(b, "priority", int64(k.Priority))
		b, reasons = bson.BeginArray(b, "subscriptions")
		for j, r := range k.Subscriptions {
			var reason int
			b, reason = bson.BeginItem(b, j)
			if r.Default {
				b = bson.AppendInt(b, "default", int64(r.Index))
			} else {
				b = bson.AppendInt(b, "sub", int64(r.Index))
			}
			b = bson.End(b, reason)
		}
		b = bson.End(bson.End(b, reasons), at)
	}
	return bson.End(b, list)
}

func (s *Stream) appendBSON(b []byte, index int) []byte {
	b, at := bson.BeginItem(b, index)
	b = bson.AppendString(b, "name", s.Name)
	b = bson.AppendBool(b, "is_default", s.IsDefault)
	b, list := bson.BeginArray(b, "errors")
	for i, e := range s.Errors {
		var item int
		b, item = bson.BeginItem(b, i)
		if e.Subscription == DefaultSubscription {
			b = bson.AppendString(b, "subscription", "default")
		} else {
			b = bson.AppendInt(b, "subscription", int64(e.Subscription))
		}
		b = bson.End(bson.AppendString(b, "message", e.Message), item)
	}
	return bson.End(bson.End(b, list), at)
}

// AppendBSON implements Line.
func (d *Data) AppendBSON(b []byte) []byte {
	var ops []byte
	for i := range d.Ops {
		ops = appendOpBSON(ops, i, &d.Ops[i])
	}
	return appendDataBSON(b, d.Bucket, d.After, d.NextAfter, d.HasMore, ops)
}

func appendDataBSON(b []byte, bucket string, after, nextAfter millrace.OpID, hasMore bool, ops []byte) []byte {
	b, line := bson.Begin(b)
	b, at := bson.BeginDocument(b, "data")
	b = bson.AppendString(b, "bucket", bucket)
	b = bson.AppendDigits(b, "after", int64(after))
	b = bson.AppendDigits(b, "next_after", int64(nextAfter))
	b = bson.AppendBool(b, "has_more", hasMore)
	b, list := bson.BeginArray(b, "data")
	b = append(b, ops...)
	return bson.End(bson.End(bson.End(b, list), at), line)
}

func appendOpBSON(b []byte, index int, op *millrace.Op) []byte {
	b, at := bson.BeginItem(b, index)
	b = bson.AppendDigits(b, "op_id", int64(op.ID))
	b = bson.AppendString(b, "op", op.Kind.String())
	if op.Kind == millrace.OpPut || op.Kind == millrace.OpRemove {
		b = bson.AppendString(b, "object_type", op.Type)
		b = bson.AppendString(b, "object_id", op.RowID)
		if op.Subkey != "" {
			b = bson.AppendString(b, "subkey", op.Subkey)
		}
	}
	b = bson.AppendInt(b, "checksum", int64(op.Checksum))
	switch op.Kind {
	case millrace.OpPut:
		b = bson.AppendString(b, "data", op.Data)
	case millrace.OpRemove:
		b = bson.AppendNull(b, "data")
	}
	return bson.End(b, at)
}

// AppendBSON implements Line.
func (c CheckpointComplete) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	b, at := bson.BeginDocument(b, "checkpoint_complete")
	return bson.End(bson.End(bson.AppendDigits(b, "last_op_id", int64(c.LastOpID)), at), line)
}

// AppendBSON implements Line.
func (c PartialCheckpointComplete) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	b, at := bson.BeginDocument(b, "partial_checkpoint_complete")
	b = bson.AppendDigits(b, "last_op_id", int64(c.LastOpID))
	return bson.End(bson.End(bson.AppendInt(b, "priority", int64(c.Priority)), at), line)
}

// AppendBSON implements Line.
func (t TokenExpiresIn) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	return bson.End(bson.AppendInt(b, "token_expires_in", int64(t)), line)
}

// AppendBSON implements Line.
func (e *StreamError) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	b, at := bson.BeginDocument(b, "error")
	b = bson.AppendString(b, "code", e.Code)
	b = bson.AppendString(b, "description", e.Description)
	return bson.End(bson.End(bson.AppendBool(b, "fatal", e.Fatal), at), line)
}

// AppendBSON implements Line.
func (r CheckpointRequestReply) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	b, at := bson.BeginDocument(b, "checkpoint_request")
	return bson.End(bson.End(bson.AppendDigits(b, "id", r.ID), at), line)
}

// AppendBSON implements Line: the value is a string of its JSON, and a name with
// zero bytes loses them.
func (u *Unknown) AppendBSON(b []byte) []byte {
	b, line := bson.Begin(b)
	return bson.End(bson.AppendString(b, strings.ReplaceAll(u.Key, "\x00", ""), string(u.Raw)), line)
}

// maxJSONGrowth bounds what a document may take as JSON, as a multiple of its own
// size: escapes make texts longer, and short numbers take more as digits.
const maxJSONGrowth = 3

// DecodeLineBSON reads one line that is a BSON document; see DecodeLine.
func DecodeLineBSON(b []byte) (Line, error) {
	text, err := fromBSON(b)
	if err != nil {
		return nil, err
	}
	return DecodeLine(text)
}

// DecodeRequestBSON reads a StreamingSyncRequest that is a BSON document; see
// DecodeRequest.
func DecodeRequestBSON(b []byte) (*Request, error) {
	text, err := fromBSON(b)
	if err != nil {
		return nil, err
	}
	return DecodeRequest(text)
}

func fromBSON(b []byte) ([]byte, error) {
	text, err := bson.ToJSON(b, maxJSONGrowth*len(b)+1024)
	if err != nil {
		return nil, wrong("BSON: %v", err)
	}
	return text, nil
}
