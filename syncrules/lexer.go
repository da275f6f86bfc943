package syncrules

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEOF    tokenKind = iota
	tokIdent            // unquoted name or keyword; text is folded to lower case
	tokQuoted           // "name"; text is the name
	tokNumber           // digits[.digits][e[sign]digits]
	tokString           // 'text' or E'text'; text is the value
	tokOp               // operator or punctuation
	tokBad              // text is what is wrong with it
)

type token struct {
	kind       tokenKind
	text       string
	start, end int
}

// operators, longest first.
var operators = []string{
	"->>", "!~~", "!~*", "->", "||", "&&", "::", "<=", ">=", "<>", "!=", "==", "<<", ">>", "!~", "~*", "~~", "@>", "<@",
	"=", "<", ">", "+", "-", "*", "/", "%", "&", "|", "(", ")", ",", ".", ";", "[", "]", "~", "?", "^", "#", "@", ":", "!",
}

// lex cuts a whole text into tokens; the last is tokEOF. It never fails: what
// it cannot read becomes a tokBad.
func lex(text string) []token {
	l := lexer{text: text}
	tokens := make([]token, 0, len(text)/4+2)
	for {
		t := l.next()
		tokens = append(tokens, t)
		if t.kind == tokEOF {
			return tokens
		}
	}
}

type lexer struct {
	text string
	pos  int
}

func (l *lexer) next() token {
	if bad := l.skipSpace(); bad != nil {
		return *bad
	}
	start := l.pos
	if start >= len(l.text) {
		return token{kind: tokEOF, start: start, end: start}
	}
	switch c := l.text[start]; {
	case c == '\'':
		return l.quotedText(start, start, false)
	case (c == 'e' || c == 'E') && start+1 < len(l.text) && l.text[start+1] == '\'':
		return l.quotedText(start, start+1, true)
	case c == '"':
		return l.quotedName(start)
	case c >= '0' && c <= '9':
		return l.number(start)
	case c == '$':
		return l.dollar(start)
	}
	if r, _ := utf8.DecodeRuneInString(l.text[start:]); isNameStart(r) {
		for l.pos < len(l.text) {
			r, n := utf8.DecodeRuneInString(l.text[l.pos:])
			if !isNameStart(r) && !unicode.IsDigit(r) {
				break
			}
			l.pos += n
		}
		return token{tokIdent, strings.ToLower(l.text[start:l.pos]), start, l.pos}
	}
	for _, op := range operators {
		if strings.HasPrefix(l.text[start:], op) {
			l.pos += len(op)
			return token{tokOp, op, start, l.pos}
		}
	}
	r, n := utf8.DecodeRuneInString(l.text[start:])
	l.pos += n
	if r == '`' {
		return token{tokBad, "names are quoted by double quotes, not backticks", start, l.pos}
	}
	return token{tokBad, "unexpected character " + strconv.Quote(l.text[start:l.pos]), start, l.pos}
}

func isNameStart(r rune) bool {
	return r == '_' || unicode.IsLetter(r)
}

// skipSpace passes white space and comments.
func (l *lexer) skipSpace() *token {
	for l.pos < len(l.text) {
		rest := l.text[l.pos:]
		switch {
		case strings.HasPrefix(rest, "--"):
			if i := strings.IndexByte(rest, '\n'); i >= 0 {
				l.pos += i + 1
			} else {
				l.pos = len(l.text)
			}
		case strings.HasPrefix(rest, "/*"):
			i := strings.Index(rest[2:], "*/")
			if i < 0 {
				start := l.pos
				l.pos = len(l.text)
				return &token{tokBad, "comment is not closed", start, l.pos}
			}
			l.pos += i + 4
		default:
			r, n := utf8.DecodeRuneInString(rest)
			if !unicode.IsSpace(r) && r != '\uFEFF' {
				return nil
			}
			l.pos += n
		}
	}
	return nil
}

// quotedText reads '…' that opens at quote; start includes a leading E.
func (l *lexer) quotedText(start, quote int, escapes bool) token {
	var b strings.Builder
	i := quote + 1
	for i < len(l.text) {
		c := l.text[i]
		switch {
		case c == '\'' && i+1 < len(l.text) && l.text[i+1] == '\'':
			b.WriteByte('\'')
			i += 2
		case c == '\'':
			l.pos = i + 1
			return token{tokString, b.String(), start, l.pos}
		case c == '\\' && escapes && i+1 < len(l.text):
			i = l.escape(&b, i+1)
		default:
			b.WriteByte(c)
			i++
		}
	}
	l.pos = len(l.text)
	return token{tokBad, "text is not closed by a quote", start, l.pos}
}

// escape reads the escape whose letter is at i and returns where it ends.
func (l *lexer) escape(b *strings.Builder, i int) int {
	c := l.text[i]
	switch c {
	case 'b':
		b.WriteByte('\b')
	case 'f':
		b.WriteByte('\f')
	case 'n':
		b.WriteByte('\n')
	case 'r':
		b.WriteByte('\r')
	case 't':
		b.WriteByte('\t')
	case 'x', 'u', 'U':
		n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
		j := i + 1
		for j < len(l.text) && j-i-1 < n && isHex(l.text[j]) {
			j++
		}
		code, err := strconv.ParseUint(l.text[i+1:j], 16, 32)
		if err != nil {
			b.WriteByte(c)
			return i + 1
		}
		b.WriteRune(rune(code))
		return j
	default:
		_, n := utf8.DecodeRuneInString(l.text[i:])
		b.WriteString(l.text[i : i+n])
		return i + n
	}
	return i + 1
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func (l *lexer) quotedName(start int) token {
	var b strings.Builder
	for i := start + 1; i < len(l.text); i++ {
		if l.text[i] != '"' {
			b.WriteByte(l.text[i])
			continue
		}
		if i+1 < len(l.text) && l.text[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		l.pos = i + 1
		if b.Len() == 0 {
			return token{tokBad, "a name cannot be empty", start, l.pos}
		}
		return token{tokQuoted, b.String(), start, l.pos}
	}
	l.pos = len(l.text)
	return token{tokBad, "name is not closed by a double quote", start, l.pos}
}

func (l *lexer) number(start int) token {
	digits := func() {
		for l.pos < len(l.text) && l.text[l.pos] >= '0' && l.text[l.pos] <= '9' {
			l.pos++
		}
	}
	digits()
	if l.pos+1 < len(l.text) && l.text[l.pos] == '.' && l.text[l.pos+1] >= '0' && l.text[l.pos+1] <= '9' {
		l.pos++
		digits()
	}
	if n := exponentLength(l.text[l.pos:]); n > 0 {
		l.pos += n
	}
	if r, _ := utf8.DecodeRuneInString(l.text[l.pos:]); isNameStart(r) {
		for l.pos < len(l.text) {
			r, n := utf8.DecodeRuneInString(l.text[l.pos:])
			if !isNameStart(r) && !unicode.IsDigit(r) {
				break
			}
			l.pos += n
		}
		return token{tokBad, "a number ends in letters; put a space between them", start, l.pos}
	}
	return token{tokNumber, l.text[start:l.pos], start, l.pos}
}

// exponentLength is how long the exponent is that s starts with, such as e-3;
// 0 if there is none.
func exponentLength(s string) int {
	if s == "" || s[0] != 'e' && s[0] != 'E' {
		return 0
	}
	sign := 1
	if len(s) > 1 && (s[1] == '+' || s[1] == '-') {
		sign = 2
	}
	n := countDigits(s[sign:])
	if n == 0 {
		return 0
	}
	return sign + n
}

// dollar reads $1 and $$text$$, which the language does not have.
func (l *lexer) dollar(start int) token {
	l.pos++
	for l.pos < len(l.text) && l.text[l.pos] >= '0' && l.text[l.pos] <= '9' {
		l.pos++
	}
	if l.pos > start+1 {
		return token{tokBad, "parameters such as $1 cannot be used: take values from functions like auth.parameter('name')", start, l.pos}
	}
	return token{tokBad, "dollar quoting cannot be used", start, l.pos}
}
