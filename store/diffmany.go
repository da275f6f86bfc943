package store

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/millrace/millrace"
)

// indexAbove is the number of outputs, before and after, from which on a row's
// outputs are compared by a map.
const indexAbove = 64

type outputIdentity struct {
	definition         millrace.DefinitionID
	bucket             millrace.BucketID
	typ, rowID, subkey string
}

func identity(id millrace.BucketID, out *millrace.Output) outputIdentity {
	return outputIdentity{out.Definition, id, out.Type, out.RowID, out.Subkey}
}

// diffManyOutputs is diffOutputs for a row with many outputs.
func (w *Writer) diffManyOutputs(c *millrace.Change, row *rowState, ids []millrace.BucketID) error {
	type place struct{ state, output int }
	index := map[outputIdentity]place{}
	reindex := func() {
		clear(index)
		for i := range row.buckets {
			for j := range row.buckets[i].outputs {
				o := &row.buckets[i].outputs[j]
				index[outputIdentity{row.buckets[i].definition, o.bucket, o.typ, o.rowID, o.subkey}] = place{i, j}
			}
		}
	}
	reindex()
	for i := range c.Outputs {
		id, err := w.bucketID(&c.Outputs[i], ids[i], c)
		if err != nil {
			return err
		}
		if ids[i] = id; id < 0 {
			w.noteError(row, c.Outputs[i].Definition, unstorable(&c.Outputs[i]))
			continue
		}
		if p, ok := index[identity(id, &c.Outputs[i])]; ok {
			row.buckets[p.state].outputs[p.output].kept = true
		}
	}
	w.removeOthers(c, row)
	reindex()
	for i := range c.Outputs {
		if ids[i] < 0 {
			continue
		}
		out := &c.Outputs[i]
		b := row.bucketState(out.Definition)
		var o *output
		if p, ok := index[identity(ids[i], out)]; ok {
			o = &row.buckets[p.state].outputs[p.output]
		}
		n := len(b.outputs)
		w.put(row, b, o, ids[i], out)
		if len(b.outputs) > n {
			for j := range row.buckets {
				if row.buckets[j].definition == out.Definition {
					index[identity(ids[i], out)] = place{j, n}
				}
			}
		}
	}
	return nil
}

// dataDigest tells data texts apart; never 0.
func dataDigest(data string) int64 {
	sum := sha256.Sum256([]byte(data))
	return int64(binary.BigEndian.Uint64(sum[:8]) | 1)
}
