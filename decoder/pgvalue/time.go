package pgvalue

import (
	"time"

	"github.com/millrace/millrace"
)

// outcome of reading a date or time.
type outcome uint8

const (
	made outcome = iota // appended
	raw                 // the text is the value
	null                // there is no value
)

// clock converts date and time texts of one type.
type clock struct {
	oid    uint32
	iso    bool
	digits int // of the fraction, with iso
}

func newClock(oid uint32, o Options) clock {
	digits := min(max(o.FractionDigits, 0), 6)
	return clock{oid: oid, iso: o.TimestampsISO8601, digits: digits}
}

func timestamps(oid uint32, o Options) Converter {
	c := newClock(oid, o)
	return func(text []byte, a *Arena) (millrace.Value, error) {
		start := len(a.buf)
		b, out := c.append(a.buf, text)
		if out == made {
			a.buf = b
			return millrace.Text(a.since(start)), nil
		}
		a.buf = b[:start]
		if out == null {
			return millrace.Null, nil
		}
		return asText(text, a)
	}
}

func (c clock) append(b, text []byte) ([]byte, outcome) {
	switch view(text) {
	case "infinity":
		return c.limit(b, "9999-12-31", "23:59:59"), made
	case "-infinity":
		return c.limit(b, "0000-01-01", "00:00:00"), made
	}
	switch c.oid {
	case oidDate:
		return b, raw
	case oidTime:
		if !c.iso || !isClock(text) {
			return b, raw
		}
		end := fractionEnd(text, 8)
		if end != len(text) {
			return b, raw
		}
		return c.fraction(append(b, text[:8]...), text[8:end]), made
	}
	return c.timestamp(b, text)
}

// limit writes what stands for an infinity.
func (c clock) limit(b []byte, date, clock string) []byte {
	b = append(b, date...)
	if c.oid == oidDate {
		return b
	}
	b = append(b, c.separator())
	b = c.fraction(append(b, clock...), nil)
	if c.oid == oidTimestamptz {
		b = append(b, 'Z')
	}
	return b
}

// timestamp reads "2024-02-29 13:45:10.123456", with an offset for
// timestamptz, with " BC" before our era, with more digits after year 9999.
func (c clock) timestamp(b, text []byte) ([]byte, outcome) {
	if len(text) > 3 && view(text[len(text)-3:]) == " BC" {
		return b, null
	}
	year := 0
	for year < len(text) && isDigit(text[year]) {
		year++
	}
	if year > 4 {
		if c.oid == oidTimestamptz {
			return b, null
		}
		return b, raw
	}
	if len(text) < 19 || year != 4 || text[4] != '-' || !twoDigits(text[5:]) || text[7] != '-' ||
		!twoDigits(text[8:]) || text[10] != ' ' || !isClock(text[11:]) {
		return b, raw
	}
	end := fractionEnd(text, 19)
	fraction, offset := text[19:end], text[end:]
	if c.oid == oidTimestamp {
		if len(offset) > 0 || !c.iso {
			return b, raw
		}
		b = append(append(append(b, text[:10]...), 'T'), text[11:19]...)
		return c.fraction(b, fraction), made
	}
	seconds, ok := offsetSeconds(offset)
	if !ok {
		return b, raw
	}
	if seconds == 0 {
		b = append(append(append(b, text[:10]...), c.separator()), text[11:19]...)
	} else {
		t := time.Date(number(text[:4]), time.Month(number(text[5:7])), number(text[8:10]),
			number(text[11:13]), number(text[14:16]), number(text[17:19]), 0, time.UTC)
		t = t.Add(-time.Duration(seconds) * time.Second)
		if t.Year() < 1 || t.Year() > 9999 {
			return b, null
		}
		b = t.AppendFormat(b, "2006-01-02")
		b = t.AppendFormat(append(b, c.separator()), "15:04:05")
	}
	return append(c.fraction(b, fraction), 'Z'), made
}

func (c clock) separator() byte {
	if c.iso {
		return 'T'
	}
	return ' '
}

// fraction appends a fraction, which begins with its point: as sent, or cut
// and padded to the digits asked for.
func (c clock) fraction(b, fraction []byte) []byte {
	if !c.iso {
		return append(b, fraction...)
	}
	if c.digits == 0 {
		return b
	}
	b = append(b, '.')
	for i := 1; i <= c.digits; i++ {
		if i < len(fraction) {
			b = append(b, fraction[i])
		} else {
			b = append(b, '0')
		}
	}
	return b
}

// fractionEnd gives the end of the fraction that may begin at i.
func fractionEnd(text []byte, i int) int {
	if i >= len(text) || text[i] != '.' {
		return i
	}
	for i++; i < len(text) && isDigit(text[i]); i++ {
	}
	return i
}

// offsetSeconds reads +HH[:MM[:SS]].
func offsetSeconds(b []byte) (int, bool) {
	if len(b) != 3 && len(b) != 6 && len(b) != 9 {
		return 0, false
	}
	if b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	total := 0
	for i, unit := 1, 3600; i < len(b); i, unit = i+3, unit/60 {
		if !twoDigits(b[i:]) || (i > 1 && b[i-1] != ':') {
			return 0, false
		}
		total += unit * number(b[i:i+2])
	}
	if b[0] == '-' {
		total = -total
	}
	return total, true
}

// isClock tells whether b begins with HH:MM:SS.
func isClock(b []byte) bool {
	return len(b) >= 8 && twoDigits(b) && b[2] == ':' && twoDigits(b[3:]) && b[5] == ':' && twoDigits(b[6:])
}

func twoDigits(b []byte) bool { return len(b) >= 2 && isDigit(b[0]) && isDigit(b[1]) }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// number reads digits.
func number(b []byte) (n int) {
	for _, c := range b {
		n = n*10 + int(c-'0')
	}
	return n
}
