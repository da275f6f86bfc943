package millrace

import "strconv"

// A row key identifies a row inside one source table. It is text: for a key of
// one column the column's value as Postgres prints it, for several columns the
// JSON array of those texts in attribute order (`["a","7"]`). The same text
// comes out of a copy and out of the stream (both use Postgres's text format
// under pinned session settings).

// AppendRowKey appends the row key of the given column texts to b.
func AppendRowKey(b []byte, columns ...string) []byte {
	if len(columns) == 1 {
		return append(b, columns[0]...)
	}
	b = append(b, '[')
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = AppendTextJSON(b, c)
	}
	return append(b, ']')
}

// AppendSubkey appends the subkey that tells apart source rows with the same
// client row id: "<table id>/<row key>". Outputs whose type is fed by a single
// source table and whose row id equals the row key have no subkey.
func AppendSubkey(b []byte, table TableID, key string) []byte {
	b = strconv.AppendInt(b, int64(table), 10)
	return append(append(b, '/'), key...)
}
