package syncrules

import (
	"math"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

func init() {
	register(&function{name: "unixepoch", version: 1, min: 1, max: -1, eval: unixEpoch})
	register(&function{name: "datetime", version: 1, min: 1, max: -1, eval: dateTime})
}

// maxTime is the largest distance from 1970 in milliseconds: one hundred
// million days.
const maxTime = 8.64e15

func unixEpoch(e *env, args []millrace.Value) millrace.Value {
	ms, subsec, ok := timeArgument(e, args)
	switch {
	case !ok:
		return millrace.Null
	case subsec:
		return millrace.Real(float64(ms) / 1000)
	}
	return millrace.Integer(floorDiv(ms, 1000))
}

func dateTime(e *env, args []millrace.Value) millrace.Value {
	ms, subsec, ok := timeArgument(e, args)
	if !ok {
		return millrace.Null
	}
	days := floorDiv(ms, 86_400_000)
	rest := ms - days*86_400_000
	year, month, day := civil(days)
	start := len(e.buf)
	if year < 0 {
		e.buf = append(e.buf, '-')
		year = -year
	}
	e.buf = appendDigits(e.buf, year, 4)
	e.buf = appendDigits(append(e.buf, '-'), month, 2)
	e.buf = appendDigits(append(e.buf, '-'), day, 2)
	e.buf = appendDigits(append(e.buf, ' '), rest/3_600_000, 2)
	e.buf = appendDigits(append(e.buf, ':'), rest/60_000%60, 2)
	e.buf = appendDigits(append(e.buf, ':'), rest/1000%60, 2)
	if subsec {
		e.buf = appendDigits(append(e.buf, '.'), rest%1000, 3)
	}
	return e.made(start)
}

func appendDigits(b []byte, n int64, width int) []byte {
	s := strconv.FormatInt(n, 10)
	for i := len(s); i < width; i++ {
		b = append(b, '0')
	}
	return append(b, s...)
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 && a < 0 {
		q--
	}
	return q
}

// timeArgument reads a time value with its modifiers: milliseconds since
// 1970, and whether fractions are wanted.
func timeArgument(e *env, args []millrace.Value) (ms int64, subsec, ok bool) {
	if args[0].IsNull() {
		return 0, false, false
	}
	unix := false
	for i, m := range args[1:] {
		if m.Kind() != millrace.KindText {
			return 0, false, false
		}
		switch word := m.Str(); {
		case (word == "subsec" || word == "subsecond") && !subsec:
			subsec = true
		case i == 0 && word == "unixepoch":
			unix = true
		case i == 1 && subsec && !unix:
			// Behind a leading subsec nothing else is looked at.
		default:
			return 0, false, false
		}
		if subsec {
			break
		}
	}
	v := args[0]
	if v.Kind() == millrace.KindBlob {
		v = millrace.Text(e.text(v))
	}
	if isNumber(v) {
		f := asFloat(v)
		if unix {
			f *= 1000
		} else {
			f = julianMillis(f)
		}
		ms, ok = toMillis(f)
		return ms, subsec, ok
	}
	s := v.Str()
	if n := countDigits(s); !unix && n > 0 && (n == len(s) || s[n] == '.' && countDigits(s[n+1:]) == len(s)-n-1) {
		ms, ok = toMillis(julianMillis(parseReal(s)))
		return ms, subsec, ok
	}
	ms, ok = parseTime(s)
	return ms, subsec, ok
}

func julianMillis(day float64) float64 { return math.Round((day - 2440587.5) * 86_400_000) }

func toMillis(f float64) (int64, bool) {
	if math.IsNaN(f) || math.Abs(f) > maxTime {
		return 0, false
	}
	return int64(math.Floor(f)), true
}

// parseTime reads YYYY-MM-DD with an optional time and zone.
func parseTime(s string) (ms int64, ok bool) {
	p := timeParser{s: s}
	year, month, day := p.digits(4), p.after('-', 2), p.after('-', 2)
	if p.bad || month < 1 || month > 12 || day < 1 || day > 31 {
		return 0, false
	}
	if year == 0 {
		year = 2000
	}
	days := daysFrom(year, month) + day - 1
	if p.s == "" {
		return days * 86_400_000, true
	}
	if p.s[0] != ' ' && p.s[0] != 'T' {
		return 0, false
	}
	p.s = p.s[1:]
	hour, minute := p.digits(2), p.after(':', 2)
	second, milli := int64(0), int64(0)
	if strings.HasPrefix(p.s, ":") {
		second = p.after(':', 2)
		milli = p.fraction()
	}
	offset := p.zone()
	if p.bad || p.s != "" || hour > 24 || minute > 59 || second > 59 || hour == 24 && minute+second+milli > 0 {
		return 0, false
	}
	return days*86_400_000 + hour*3_600_000 + minute*60_000 + second*1000 + milli - offset*60_000, true
}

// timeParser eats a text from the left; bad is set once something does not
// fit.
type timeParser struct {
	s   string
	bad bool
}

func (p *timeParser) digits(n int) int64 {
	if len(p.s) < n || countDigits(p.s[:n]) != n {
		p.bad = true
		return 0
	}
	v, err := strconv.ParseInt(p.s[:n], 10, 64)
	if err != nil {
		p.bad = true
	}
	p.s = p.s[n:]
	return v
}

func (p *timeParser) after(c byte, n int) int64 {
	if p.s == "" || p.s[0] != c {
		p.bad = true
		return 0
	}
	p.s = p.s[1:]
	return p.digits(n)
}

// fraction reads .ddd and gives milliseconds, cut.
func (p *timeParser) fraction() int64 {
	if !strings.HasPrefix(p.s, ".") {
		return 0
	}
	n := countDigits(p.s[1:])
	if n == 0 {
		p.bad = true
		return 0
	}
	digits := (p.s[1:1+n] + "00")[:3]
	p.s = p.s[1+n:]
	v, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		p.bad = true
	}
	return v
}

// zone reads Z or ±hh:mm and gives minutes east of UTC.
func (p *timeParser) zone() int64 {
	if p.s == "Z" {
		p.s = ""
		return 0
	}
	if p.s == "" || p.s[0] != '+' && p.s[0] != '-' {
		return 0
	}
	sign := int64(1)
	if p.s[0] == '-' {
		sign = -1
	}
	p.s = p.s[1:]
	hours, minutes := p.digits(2), p.after(':', 2)
	if hours > 23 || minutes > 59 {
		p.bad = true
	}
	return sign * (hours*60 + minutes)
}

// daysFrom is the number of days from 1970 to the first of a month.
func daysFrom(year, month int64) int64 {
	if month <= 2 {
		year--
	}
	era := floorDiv(year, 400)
	yoe := year - era*400
	doy := (153*((month+9)%12) + 2) / 5
	return era*146097 + yoe*365 + yoe/4 - yoe/100 + doy - 719468
}

// civil is the date of a day counted from 1970.
func civil(days int64) (year, month, day int64) {
	days += 719468
	era := floorDiv(days, 146097)
	doe := days - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	day = doy - (153*mp+2)/5 + 1
	month = mp%12 + 3
	if month > 12 {
		month -= 12
	}
	year = yoe + era*400
	if month <= 2 {
		year++
	}
	return year, month, day
}
