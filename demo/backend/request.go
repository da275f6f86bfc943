package backend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
)

// Limits of a request.
const (
	maxBodyBytes    = 8 << 20
	maxTransactions = 1_000
	maxOps          = 20_000
)

// body is a request. Exactly one of Transactions and Batch is given.
type body struct {
	ClientID     string        `json:"client_id"`
	Transactions []transaction `json:"transactions"`
	Batch        []op          `json:"batch"`
}

// transaction is what a device wrote together.
type transaction struct {
	ID  name `json:"id"`
	Ops []op `json:"ops"`
}

// op is one written row.
type op struct {
	Op   string                     `json:"op"`
	Type string                     `json:"type"`
	ID   name                       `json:"id"`
	Data map[string]json.RawMessage `json:"data"`
}

// name is a JSON string, or a number taken as its text.
type name string

// UnmarshalJSON implements json.Unmarshaler.
func (n *name) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err == nil {
		*n = name(s)
		return nil
	}
	var num json.Number
	if err := json.Unmarshal(b, &num); err != nil {
		return fmt.Errorf("an id is neither text nor number")
	}
	*n = name(num)
	return nil
}

// decode reads a request and checks its form.
func decode(b []byte) (*body, *Error) {
	var r body
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, invalid("the body is not a JSON upload: %v", err)
	}
	switch {
	case r.Transactions == nil && r.Batch == nil:
		return nil, invalid(`the body has neither "transactions" nor "batch"`)
	case r.Transactions != nil && r.Batch != nil:
		return nil, invalid(`the body has both "transactions" and "batch"`)
	case r.Batch != nil:
		r.Transactions = []transaction{{Ops: r.Batch}}
	}
	if len(r.Transactions) > maxTransactions {
		return nil, tooLarge("more than %d transactions in a request: send fewer", maxTransactions)
	}
	ops := 0
	for i := range r.Transactions {
		ops += len(r.Transactions[i].Ops)
	}
	if ops > maxOps {
		return nil, tooLarge("more than %d ops in a request: send fewer transactions", maxOps)
	}
	return &r, nil
}

// text gives a JSON value as the text Postgres casts to the column's type; nil
// is null. Clients that keep numbers as reals send 1.0 for an integer or a
// boolean.
func text(v json.RawMessage) (*string, error) {
	v = bytes.TrimSpace(v)
	if len(v) == 0 {
		return nil, fmt.Errorf("the value is missing")
	}
	switch v[0] {
	case 'n':
		return nil, nil
	case '"':
		var s string
		if err := json.Unmarshal(v, &s); err != nil {
			return nil, err
		}
		return &s, nil
	case '{', '[':
		return nil, fmt.Errorf("objects and lists are not column values")
	}
	s := string(v)
	if f, err := strconv.ParseFloat(s, 64); err == nil && f == float64(int64(f)) {
		s = strconv.FormatInt(int64(f), 10)
	}
	return &s, nil
}
