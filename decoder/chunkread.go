package decoder

import (
	"context"
	"fmt"
	"time"

	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/decoder/pgoutput"
	"github.com/millrace/millrace/decoder/pgvalue"
)

// chunkRead asks a worker for a chunk. The copy belongs to the appender: the
// worker only gives it back with the result.
type chunkRead struct {
	copy  *copyRun
	chunk *chunk
	table *catalog.Table // as the session found it; not changed by anyone
}

// chunkReader reads chunks: *catalog.Reader.
type chunkReader interface {
	ReadChunk(ctx context.Context, req *catalog.ChunkRequest, row func(*pgoutput.Tuple) error) (catalog.Chunk, error)
	Close()
}

// readChunks is a worker: it reads what the appender asks for. A chunk that
// cannot be read is given back with the error.
func (r *runner) readChunks(ctx context.Context, s *session, reader chunkReader) error {
	defer reader.Close()
	for {
		var read chunkRead
		select {
		case <-ctx.Done():
			return ctx.Err()
		case read = <-s.reads:
		}
		result := &chunkResult{chunk: read.chunk, began: time.Now()}
		for _, c := range read.table.Columns {
			result.columns = append(result.columns, planColumn{name: c.Name, typeOID: c.TypeOID})
		}
		result.rows = chunkRows{columns: len(result.columns), dir: r.config.SpoolDir, max: r.config.SpoolMax}
		req, err := chunkRequest(read.table, read.chunk)
		if err == nil {
			err = s.pace.wait(ctx)
		}
		if err == nil {
			result.Chunk, err = reader.ReadChunk(ctx, req, result.rows.add)
			s.pace.spent(result.Bytes)
		}
		if err != nil {
			result.rows.close()
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		result.err, result.done = err, time.Now()
		if err := s.post(ctx, chunkEvent{s, read.copy, result}); err != nil {
			result.rows.close()
			return err
		}
	}
}

func chunkRequest(t *catalog.Table, ch *chunk) (*catalog.ChunkRequest, error) {
	req := &catalog.ChunkRequest{Table: t.OID, Name: t.TableName, Filter: t.Filter, FromPage: ch.from, ToPage: ch.to}
	for _, c := range t.Columns {
		req.Columns = append(req.Columns, c.Name)
	}
	if ch.keys == nil {
		return req, nil
	}
	for _, i := range t.Key {
		req.KeyColumns = append(req.KeyColumns, t.Columns[i].Name)
		req.KeyTypes = append(req.KeyTypes, t.Columns[i].TypeName)
	}
	for _, key := range ch.keys {
		texts, err := pgvalue.SplitKey(key, len(t.Key))
		if err != nil {
			return nil, fmt.Errorf("read rows of %s again: %w", t.TableName, err)
		}
		req.Keys = append(req.Keys, texts)
	}
	return req, nil
}
