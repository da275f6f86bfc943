package config

import (
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const mask = "xxxxx"

// Bytes is a size in bytes.
type Bytes int64

// String gives the largest binary unit that divides the size, as the
// configuration file writes it.
func (b Bytes) String() string {
	for _, u := range units {
		if u.size > 1 && strings.HasSuffix(u.name, "iB") && b != 0 && int64(b)%u.size == 0 {
			return strconv.FormatInt(int64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

var units = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
}

// ParseBytes reads a size: a whole number, alone or with B, KiB, MiB, GiB, TiB
// (powers of 1024), kB, MB, GB or TB (powers of 1000).
func ParseBytes(s string) (Bytes, error) {
	number, size := strings.TrimSpace(s), int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, size = strings.TrimSpace(rest), u.size
			break
		}
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%q is no size such as 8MiB or 20GiB", s)
	}
	if int64(n) > math.MaxInt64/size {
		return 0, fmt.Errorf("%q is larger than any disk", s)
	}
	return Bytes(int64(n) * size), nil
}

var daysPattern = regexp.MustCompile(`^(\d+)d`)

// ParseDuration reads a time span as Go writes it (90s, 1h30m), or with days
// in front (7d, 1d12h).
func ParseDuration(s string) (time.Duration, error) {
	rest := strings.TrimSpace(s)
	var days time.Duration
	if m := daysPattern.FindStringSubmatch(rest); m != nil {
		n, err := strconv.ParseInt(m[1], 10, 32)
		if err != nil || n > 36_500 {
			return 0, fmt.Errorf("%q is longer than a century", s)
		}
		days, rest = time.Duration(n)*24*time.Hour, rest[len(m[0]):]
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, fmt.Errorf("%q is no time span such as 60s, 10m, 1h or 7d", s)
	}
	if d < 0 {
		return 0, fmt.Errorf("%q is negative", s)
	}
	if days+d < days {
		return 0, fmt.Errorf("%q is longer than a century", s)
	}
	return days + d, nil
}

// Token is a secret text that prints masked.
type Token string

// String hides the text.
func (Token) String() string { return mask }

// GoString hides the text.
func (Token) GoString() string { return mask }

// MarshalText hides the text.
func (Token) MarshalText() ([]byte, error) { return []byte(mask), nil }

// URI is a Postgres connection string, either a URL or key=value pairs. It may
// hold a password: printing it masks that, string(u) is the real one.
type URI string

var (
	urlUser      = regexp.MustCompile(`//.*@`) // greedy: a password may hold any character
	pairPassword = regexp.MustCompile(`(?i)\b((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'|[^\s&]*)`)
)

// String masks the password.
func (u URI) String() string {
	s := string(u)
	if parsed, err := url.Parse(s); err == nil && parsed.Scheme != "" {
		s = parsed.Redacted()
	} else {
		s = urlUser.ReplaceAllString(s, "//"+mask+"@")
	}
	return pairPassword.ReplaceAllString(s, "${1}"+mask)
}

// GoString masks the password.
func (u URI) GoString() string { return strconv.Quote(u.String()) }

// MarshalText masks the password.
func (u URI) MarshalText() ([]byte, error) { return []byte(u.String()), nil }
