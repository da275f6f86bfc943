package syncrules

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// The form of the conformance vectors.

type vectorFile struct {
	Topic   string   `json:"topic"`
	Vectors []vector `json:"vectors"`
}

type vector struct {
	ID      string          `json:"id"`
	Name    string          `json:"name"`
	Tags    []string        `json:"tags"`
	Rules   string          `json:"rules"`
	Version *int            `json:"bucket_version"`
	Schema  json.RawMessage `json:"schema"`
	Expect  struct {
		Loads       bool               `json:"loads"`
		Diagnostics []vectorDiagnostic `json:"diagnostics"`
	} `json:"expect"`
	Rows     []vectorRow     `json:"rows"`
	Requests []vectorRequest `json:"requests"`
}

type vectorDiagnostic struct {
	Severity string `json:"severity"`
	Start    *int   `json:"start"`
	End      *int   `json:"end"`
}

type vectorRow struct {
	Schema string          `json:"schema"`
	Table  string          `json:"table"`
	Row    json.RawMessage `json:"row"`
	Expect struct {
		Data         []vectorData   `json:"data"`
		Lookups      []vectorLookup `json:"lookups"`
		DataErrors   int            `json:"data_errors"`
		LookupErrors int            `json:"lookup_errors"`
		SQLite       *struct {
			Data       []vectorData `json:"data"`
			DataErrors int          `json:"data_errors"`
		} `json:"sqlite"`
	} `json:"expect"`
}

type vectorData struct {
	Bucket string `json:"bucket"`
	Table  string `json:"table"`
	ID     string `json:"id"`
	Data   string `json:"data"`
}

type vectorLookup struct {
	Index   string `json:"index"`
	Key     string `json:"key"`
	Outputs string `json:"outputs"`
}

type vectorRequest struct {
	JWT           json.RawMessage `json:"jwt"`
	Params        json.RawMessage `json:"params"`
	Subscriptions []struct {
		Stream     string          `json:"stream"`
		Parameters json.RawMessage `json:"parameters"`
		Priority   *int            `json:"priority"`
	} `json:"subscriptions"`
	IncludeDefaults bool `json:"include_defaults"`
	Expect          struct {
		Buckets []struct {
			Bucket     string            `json:"bucket"`
			Priority   int               `json:"priority"`
			Definition string            `json:"definition"`
			Reasons    []json.RawMessage `json:"reasons"`
		} `json:"buckets"`
		Static []string     `json:"static_buckets"`
		Synced []vectorData `json:"synced"`
		Errors []string     `json:"errors"`
		Fails  bool         `json:"fails"`
	} `json:"expect"`
}

// decodeRow reads a vector's row in column order.
func decodeRow(raw json.RawMessage) (columns []string, values []millrace.Value) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return nil, nil
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, nil
		}
		var v json.RawMessage
		if dec.Decode(&v) != nil {
			return nil, nil
		}
		columns = append(columns, key.(string))
		values = append(values, decodeValue(v))
	}
	return columns, values
}

func decodeValue(raw json.RawMessage) millrace.Value {
	var text string
	if json.Unmarshal(raw, &text) == nil && string(raw) != "null" {
		if !utf8.ValidString(text) {
			return millrace.Null
		}
		return millrace.Text(text)
	}
	var v struct {
		I *string `json:"i"`
		R *string `json:"r"`
		B *string `json:"b"`
	}
	if json.Unmarshal(raw, &v) != nil {
		return millrace.Null
	}
	var e env
	switch {
	case v.I != nil:
		return cast(&e, "integer", millrace.Text(*v.I))
	case v.R != nil:
		if *v.R == "NaN" {
			return millrace.Real(nan())
		}
		return cast(&e, "real", millrace.Text(*v.R))
	case v.B != nil:
		b := make([]byte, 0, len(*v.B)/2)
		for i := 0; i+1 < len(*v.B); i += 2 {
			var x byte
			if _, err := fmt.Sscanf((*v.B)[i:i+2], "%02x", &x); err != nil {
				return millrace.Null
			}
			b = append(b, x)
		}
		return millrace.Blob(string(b))
	}
	return millrace.Null
}

func nan() float64 {
	zero := 0.0
	return zero / zero
}
