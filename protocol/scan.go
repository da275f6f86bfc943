package protocol

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/millrace/millrace"
)

// maxDepth bounds the nesting of received JSON.
const maxDepth = 100

// MaxID is the greatest op id or write checkpoint: clients use the next number
// as a sentinel.
const MaxID = math.MaxInt64 - 1

// Error is a received text that does not follow the protocol.
type Error struct {
	// Path names the field from the outermost object, for example
	// "buckets[3].after"; empty for the text as a whole.
	Path    string
	Message string
}

// Error gives "path: message".
func (e *Error) Error() string {
	if e.Path == "" {
		return e.Message
	}
	return e.Path + ": " + e.Message
}

func within(prefix string, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Path == "":
		e.Path = prefix
	case e.Path[0] == '[':
		e.Path = prefix + e.Path
	default:
		e.Path = prefix + "." + e.Path
	}
	return e
}

func wrong(format string, args ...any) error { return &Error{Message: fmt.Sprintf(format, args...)} }

// scanner reads JSON strictly (RFC 8259) from one text, driven by the decoder
// that knows what comes where.
type scanner struct {
	b     []byte
	i     int
	depth int
	key   []byte // scratch for keys with escapes
	text  []byte // scratch for strings with escapes
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) peek() byte {
	s.space()
	if s.i == len(s.b) {
		return 0
	}
	return s.b[s.i]
}

func (s *scanner) syntax(want string) error {
	s.space()
	if s.i >= len(s.b) {
		return wrong("text ends where %s is expected", want)
	}
	return wrong("unexpected %q at byte %d where %s is expected", s.b[s.i], s.i, want)
}

// end checks that nothing follows.
func (s *scanner) end() error {
	if s.peek(); s.i < len(s.b) {
		return s.syntax("the end")
	}
	return nil
}

// object reads an object; field must consume the value of each key. The key is
// valid during the call only.
func (s *scanner) object(field func(key []byte) error) error {
	if s.peek() != '{' {
		return s.syntax("an object")
	}
	if s.depth++; s.depth > maxDepth {
		return wrong("nested deeper than %d", maxDepth)
	}
	s.i++
	if s.peek() == '}' {
		s.i++
		s.depth--
		return nil
	}
	for {
		if s.peek() != '"' {
			return s.syntax("a key")
		}
		key, err := s.bytes(&s.key)
		if err != nil {
			return err
		}
		if s.peek() != ':' {
			return s.syntax("':'")
		}
		s.i++
		if err := field(key); err != nil {
			return err
		}
		switch s.peek() {
		case ',':
			s.i++
		case '}':
			s.i++
			s.depth--
			return nil
		default:
			return s.syntax("',' or '}'")
		}
	}
}

// array reads an array; element must consume each value.
func (s *scanner) array(element func(i int) error) error {
	if s.peek() != '[' {
		return s.syntax("an array")
	}
	if s.depth++; s.depth > maxDepth {
		return wrong("nested deeper than %d", maxDepth)
	}
	s.i++
	if s.peek() == ']' {
		s.i++
		s.depth--
		return nil
	}
	for i := 0; ; i++ {
		if err := element(i); err != nil {
			return within("["+strconv.Itoa(i)+"]", err)
		}
		switch s.peek() {
		case ',':
			s.i++
		case ']':
			s.i++
			s.depth--
			return nil
		default:
			return within("["+strconv.Itoa(i)+"]", s.syntax("',' or ']'"))
		}
	}
}

// null consumes a null if one is next.
func (s *scanner) null() bool {
	if s.peek() == 'n' && s.word("null") {
		return true
	}
	return false
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i >= len(w) && string(s.b[s.i:s.i+len(w)]) == w {
		s.i += len(w)
		return true
	}
	return false
}

func (s *scanner) boolean() (bool, error) {
	switch s.peek() {
	case 't':
		if s.word("true") {
			return true, nil
		}
	case 'f':
		if s.word("false") {
			return false, nil
		}
	}
	return false, s.syntax("true or false")
}

// str reads a string into memory of its own.
func (s *scanner) str() (string, error) {
	b, err := s.bytes(&s.text)
	return string(b), err
}

// bytes reads a string; the result points into the text, or into scratch if the
// string has escapes.
func (s *scanner) bytes(scratch *[]byte) ([]byte, error) {
	if s.peek() != '"' {
		return nil, s.syntax("a string")
	}
	s.i++
	start := s.i
	ascii := true
	for i := s.i; i < len(s.b); i++ {
		switch c := s.b[i]; {
		case c == '"':
			s.i = i + 1
			return checkUTF8(s.b[start:i], ascii)
		case c == '\\':
			s.i = i
			return s.unescape(append((*scratch)[:0], s.b[start:i]...), scratch)
		case c < 0x20:
			return nil, wrong("control character at byte %d of the text", i)
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, wrong("text ends inside a string")
}

func checkUTF8(b []byte, ascii bool) ([]byte, error) {
	if !ascii && !utf8.Valid(b) {
		return nil, wrong("invalid UTF-8")
	}
	return b, nil
}

// unescape goes on with a string at its first backslash.
func (s *scanner) unescape(out []byte, scratch *[]byte) ([]byte, error) {
	defer func() { *scratch = out }()
	ascii := false // out may start with anything
	for s.i < len(s.b) {
		run := s.i
		for s.i < len(s.b) && s.b[s.i] != '"' && s.b[s.i] != '\\' && s.b[s.i] >= 0x20 {
			s.i++
		}
		out = append(out, s.b[run:s.i]...)
		if s.i == len(s.b) {
			break
		}
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return checkUTF8(out, ascii)
		case c < 0x20:
			return nil, wrong("control character at byte %d of the text", s.i)
		}
		s.i++
		if s.i == len(s.b) {
			break
		}
		c := s.b[s.i]
		s.i++
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := s.hex4()
			if !ok {
				return nil, wrong("bad \\u escape at byte %d of the text", s.i)
			}
			if utf16.IsSurrogate(r) {
				r = s.lowSurrogate(r)
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, wrong("bad escape \\%c at byte %d of the text", c, s.i-1)
		}
	}
	return nil, wrong("text ends inside a string")
}

// lowSurrogate completes a pair; a lone half becomes U+FFFD.
func (s *scanner) lowSurrogate(high rune) rune {
	at := s.i
	if s.word(`\u`) {
		if low, ok := s.hex4(); ok {
			if r := utf16.DecodeRune(high, low); r != utf8.RuneError {
				return r
			}
		}
	}
	s.i = at
	return utf8.RuneError
}

func (s *scanner) hex4() (rune, bool) {
	if len(s.b)-s.i < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(s.b[s.i:s.i+4]), 16, 32)
	if err != nil || s.b[s.i] == '+' || s.b[s.i] == '-' {
		return 0, false
	}
	s.i += 4
	return rune(n), true
}

// number consumes a number and gives its text.
func (s *scanner) number() ([]byte, error) {
	s.space()
	start, i := s.i, s.i
	digits := func() bool {
		from := i
		for i < len(s.b) && s.b[i] >= '0' && s.b[i] <= '9' {
			i++
		}
		return i > from
	}
	if i < len(s.b) && s.b[i] == '-' {
		i++
	}
	whole := i
	if !digits() || (s.b[whole] == '0' && i-whole > 1) {
		return nil, s.syntax("a number")
	}
	if i < len(s.b) && s.b[i] == '.' {
		i++
		if !digits() {
			return nil, wrong("bad number at byte %d", start)
		}
	}
	if i < len(s.b) && (s.b[i] == 'e' || s.b[i] == 'E') {
		i++
		if i < len(s.b) && (s.b[i] == '+' || s.b[i] == '-') {
			i++
		}
		if !digits() {
			return nil, wrong("bad number at byte %d", start)
		}
	}
	s.i = i
	return s.b[start:i], nil
}

// integer reads a whole number between low and high.
func (s *scanner) integer(low, high int64) (int64, error) {
	b, err := s.number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return 0, wrong("%.40s is not a whole number", b)
	}
	if n < low || n > high {
		return 0, wrong("%d is not between %d and %d", n, low, high)
	}
	return n, nil
}

// id reads an op id or write checkpoint: a string of decimal digits.
func (s *scanner) id() (int64, error) {
	if c := s.peek(); c != '"' {
		return 0, s.syntax("a string of decimal digits")
	}
	b, err := s.bytes(&s.text)
	if err != nil {
		return 0, err
	}
	return parseID(b)
}

func parseID(b []byte) (int64, error) {
	if len(b) == 0 || len(b) > 19 {
		return 0, wrong("%.40q is not a string of decimal digits up to %d", b, int64(MaxID))
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, wrong("%.40q is not a string of decimal digits", b)
		}
		n = n*10 + uint64(c-'0')
	}
	if n > MaxID {
		return 0, wrong("%s is greater than %d", b, int64(MaxID))
	}
	return int64(n), nil
}

// positiveID reads a number above zero, as a string of digits or a JSON number.
func (s *scanner) positiveID() (n int64, err error) {
	if s.peek() == '"' {
		n, err = s.id()
	} else {
		n, err = s.integer(1, 1<<53-1)
	}
	if err == nil && n == 0 {
		err = wrong("0 is not a positive number")
	}
	return n, err
}

func (s *scanner) opID() (millrace.OpID, error) {
	n, err := s.id()
	return millrace.OpID(n), err
}

// raw consumes any value and gives its text.
func (s *scanner) raw() ([]byte, error) {
	s.space()
	start := s.i
	if err := s.skip(); err != nil {
		return nil, err
	}
	return s.b[start:s.i], nil
}

func (s *scanner) skip() error {
	switch c := s.peek(); {
	case c == '{':
		return s.object(func([]byte) error { return s.skip() })
	case c == '[':
		return s.array(func(int) error { return s.skip() })
	case c == '"':
		_, err := s.bytes(&s.text)
		return err
	case c == 't' || c == 'f':
		_, err := s.boolean()
		return err
	case c == 'n' && s.null():
		return nil
	case c == '-' || c >= '0' && c <= '9':
		_, err := s.number()
		return err
	}
	return s.syntax("a value")
}

// rawObject consumes an object and copies its text.
func (s *scanner) rawObject() ([]byte, error) {
	if s.peek() != '{' {
		return nil, s.syntax("an object")
	}
	b, err := s.raw()
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), b...), nil
}
