package pgvalue

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/pgoutput"
)

// ErrKey is a tuple whose key columns are not all told.
var ErrKey = errors.New("key column without a value")

// AppendKey appends the row key of a tuple (millrace.AppendRowKey): the texts
// of the key columns, in attribute order, as Postgres prints them.
func AppendKey(b []byte, t *pgoutput.Tuple, columns []int) ([]byte, error) {
	for _, c := range columns {
		if c >= t.Len() || t.Kind(c) != pgoutput.Text {
			return b, fmt.Errorf("%w: column %d of %d", ErrKey, c+1, t.Len())
		}
	}
	if len(columns) == 1 {
		return append(b, t.Bytes(columns[0])...), nil
	}
	b = append(b, '[')
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = millrace.AppendTextJSON(b, view(t.Bytes(c)))
	}
	return append(b, ']'), nil
}

// KeyText is AppendKey as a string of its own.
func KeyText(t *pgoutput.Tuple, columns []int) (string, error) {
	b, err := AppendKey(nil, t, columns)
	return string(b), err
}

// SplitKey undoes AppendKey for a key of n columns.
func SplitKey(key string, n int) ([]string, error) {
	if n == 1 {
		return []string{key}, nil
	}
	var texts []string
	if err := json.Unmarshal([]byte(key), &texts); err != nil {
		return nil, fmt.Errorf("row key of %d columns: %w", n, err)
	}
	if len(texts) != n {
		return nil, fmt.Errorf("row key has %d columns instead of %d", len(texts), n)
	}
	return texts, nil
}
