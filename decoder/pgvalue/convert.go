package pgvalue

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace/millrace"
)

// Options choose between the mappings of an edition of the rules.
type Options struct {
	// TimestampsISO8601 writes date and time with "T" and a fixed fraction.
	TimestampsISO8601 bool
	// CustomTypes converts domains, composites, ranges and arrays of types
	// that are not built in; without it they are the raw texts.
	CustomTypes bool
	// FractionDigits of ISO timestamps: 0, 3 or 6; more gives 6, which is what
	// Postgres has. Looked at with TimestampsISO8601 alone.
	FractionDigits int
}

// Converter turns a value that is not null from text format. The Value may
// point into text and into the arena. A text that the type cannot have is an
// error, which does not show it. Converters have no state and may be shared.
type Converter func(text []byte, a *Arena) (millrace.Value, error)

// ErrText is a text that its type cannot have.
var ErrText = errors.New("value cannot be read")

// For gives the converter of a type.
func For(t *Type, o Options) Converter {
	switch t.Kind {
	case Enum:
		return asText
	case Array:
		// Arrays of other than built-in base types are custom.
		if o.CustomTypes || (t.Element.Kind == Base && t.Element.builtin()) {
			return structured(t, o)
		}
		return asText
	case Domain:
		if o.CustomTypes {
			return For(t.Element, o)
		}
		return asText
	case Range:
		if !o.CustomTypes {
			return asText
		}
		json := structured(t, o)
		return func(text []byte, a *Arena) (millrace.Value, error) {
			if view(text) == "empty" {
				return millrace.Text("empty"), nil
			}
			return json(text, a)
		}
	case Composite, Multirange:
		if o.CustomTypes {
			return structured(t, o)
		}
		return asText
	}
	switch t.OID {
	case oidInt2, oidInt4, oidInt8, oidOID:
		return asInteger(t)
	case oidBool:
		return asBool
	case oidFloat4, oidFloat8:
		return asReal(t)
	case oidBytea:
		return asBlob
	case oidLSN:
		return appended(appendLSN)
	case oidTimestamp, oidTimestamptz, oidDate, oidTime:
		return timestamps(t.OID, o)
	}
	return asText
}

func asText(text []byte, _ *Arena) (millrace.Value, error) { return millrace.Text(view(text)), nil }

func asInteger(t *Type) Converter {
	return func(text []byte, _ *Arena) (millrace.Value, error) {
		n, err := strconv.ParseInt(view(text), 10, 64)
		if err != nil {
			return millrace.Null, textError(t.Name)
		}
		return millrace.Integer(n), nil
	}
}

func asBool(text []byte, _ *Arena) (millrace.Value, error) {
	switch view(text) {
	case "t":
		return millrace.Integer(1), nil
	case "f":
		return millrace.Integer(0), nil
	}
	return millrace.Null, textError("bool")
}

func asReal(t *Type) Converter {
	return func(text []byte, _ *Arena) (millrace.Value, error) {
		// The short text of a float4 is kept: "1.1" is 1.1, not 1.10000002.
		f, err := strconv.ParseFloat(view(text), 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return millrace.Null, textError(t.Name)
		}
		return millrace.Real(f), nil
	}
}

func asBlob(text []byte, a *Arena) (millrace.Value, error) {
	if len(text) < 2 || text[0] != '\\' || text[1] != 'x' {
		return millrace.Null, textError("bytea in hex format")
	}
	start := len(a.buf)
	var err error
	if a.buf, err = hex.AppendDecode(a.buf, text[2:]); err != nil {
		a.buf = a.buf[:start]
		return millrace.Null, textError("bytea in hex format")
	}
	return millrace.Blob(a.since(start)), nil
}

// appended gives the converter of an append function that tells whether the
// text was what it expects; if not the raw text is the value.
func appended(f func(b, text []byte) ([]byte, bool)) Converter {
	return func(text []byte, a *Arena) (millrace.Value, error) {
		start := len(a.buf)
		b, ok := f(a.buf, text)
		a.buf = b
		if !ok {
			a.buf = a.buf[:start]
			return asText(text, a)
		}
		return millrace.Text(a.since(start)), nil
	}
}

// appendLSN pads both halves to 8 digits, so that texts sort as positions do.
func appendLSN(b, text []byte) ([]byte, bool) {
	lsn, err := millrace.ParseLSN(view(text))
	if err != nil {
		return b, false
	}
	return fmt.Appendf(b, "%08X/%08X", uint32(lsn>>32), uint32(lsn)), true
}

func textError(name string) error { return fmt.Errorf("%w as %s", ErrText, name) }
