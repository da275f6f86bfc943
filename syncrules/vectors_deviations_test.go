package syncrules

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// Where the recorded outcome of a vector is not what Millrace does, and why.
// Each is restated in docs/reference/sync-rules.md; a vector passes by one only
// if nothing else in it differs.
const (
	devHalfSurrogate = "half of a surrogate pair is U+FFFD: text is UTF-8"
	devNotANumber    = "a coordinate that is not a number is null in GeoJSON"
	devStringMember  = "characters and the length of JSON strings and arrays are not members: null"
	devExactInteger  = "integers in JSON arrays keep all their digits"
	devStreamTag     = "the connection tag of a stream's table is heeded"
	devArrayElement  = "elements of a row's JSON array are compared as values: true is 1, null matches nothing"
	devNullKey       = "a null is not indexed for IN, as it never matches"
)

var deviationNames = []string{devHalfSurrogate, devNotANumber, devStringMember, devExactInteger, devStreamTag, devArrayElement, devNullKey}

func (c *vectorCheck) deviation(name string) {
	if !slices.Contains(c.deviations, name) {
		c.deviations = append(c.deviations, name)
	}
}

var (
	loneSurrogate = regexp.MustCompile(`\\u[dD][89a-fA-F][0-9a-fA-F]{2}`)
	notANumber    = regexp.MustCompile(`([\[,])(?:NaN|-?Infinity)`)
	wideInteger   = regexp.MustCompile(`\d{16,}`)
)

// deviates tells whether what a row gave differs from the expectation by a
// documented deviation only.
func (c *vectorCheck) deviates(row vectorRow, got, want []string) bool {
	if strings.Contains(c.v.Rules, "bucket.") && strings.Contains(c.v.Rules, " IN ") && equalLists(got, unique(elementsAsValues(want))) {
		c.deviation(devArrayElement)
		return true
	}
	if len(got) != len(want) {
		return false
	}
	rewrite := func(name string, f func(string) string) bool {
		changed := make([]string, len(want))
		for i, w := range want {
			changed[i] = f(w)
		}
		if !equalLists(got, unique(changed)) {
			return false
		}
		c.deviation(name)
		return true
	}
	if rewrite(devHalfSurrogate, func(w string) string { return loneSurrogate.ReplaceAllString(w, "\uFFFD") }) {
		return true
	}
	if strings.Contains(c.v.Rules, "st_asgeojson") && rewrite(devNotANumber, func(w string) string { return notANumber.ReplaceAllString(w, "${1}null") }) {
		return true
	}
	if row.Expect.SQLite != nil && wideInteger.Match(row.Row) && rewrite(devExactInteger, exactDigits(row)) {
		return true
	}
	if c.stringMember(row, got, want) {
		c.deviation(devStringMember)
		return true
	}
	return false
}

// exactDigits replaces, in bucket names, what the row's wide integers were
// rounded to by their digits.
func exactDigits(row vectorRow) func(string) string {
	return func(w string) string {
		for _, digits := range wideInteger.FindAllString(string(row.Row), -1) {
			if f, err := strconv.ParseFloat(digits, 64); err == nil {
				w = strings.Replace(w, strconv.FormatFloat(f, 'f', 0, 64), digits, 1)
			}
		}
		return w
	}
}

// stringMember tells whether our rows differ only in columns that are null
// here, read from a JSON string or by the key length.
func (c *vectorCheck) stringMember(row vectorRow, got, want []string) bool {
	columns, values := decodeRow(row.Row)
	fromString := strings.Contains(c.v.Rules, "'length'")
	for i := range columns {
		var s string
		fromString = fromString || json.Unmarshal([]byte(values[i].Str()), &s) == nil
	}
	if !fromString {
		return false
	}
	for i := range got {
		gotHead, gotData := splitData(got[i])
		wantHead, wantData := splitData(want[i])
		if gotHead != wantHead {
			return false
		}
		for name, v := range gotData {
			if w, ok := wantData[name]; string(v) != string(w) && string(v) != "null" || !ok && string(v) != "null" {
				return false
			}
			delete(wantData, name)
		}
		if len(wantData) > 0 {
			return false
		}
	}
	return true
}

// splitData parts the text of a row into what stands before its JSON and the
// JSON's members.
func splitData(row string) (head string, data map[string]json.RawMessage) {
	i := strings.IndexByte(row, '{')
	if i < 0 || json.Unmarshal([]byte(row[i:]), &data) != nil {
		return row, nil
	}
	return row[:i], data
}

// tag is the connection that the vector's rows come from: they name none.
func (c *vectorCheck) tag() string {
	for _, p := range c.rules.Tables() {
		if p.Tag != defaultTag && strings.Contains(c.v.Rules, "streams:") {
			c.deviation(devStreamTag)
			return p.Tag
		}
	}
	return ""
}

// neverMatches tells whether a lookup key holds a null.
func (c *vectorCheck) neverMatches(key string) bool {
	var list []any
	if json.Unmarshal([]byte(key), &list) != nil || !slices.Contains(list, nil) {
		return false
	}
	c.deviation(devNullKey)
	return true
}

// elementsAsValues rewrites bucket names that hold JSON values as such, and
// drops those that hold a null.
func elementsAsValues(rows []string) []string {
	var out []string
	for _, row := range rows {
		bucket, rest, _ := strings.Cut(row, "] ")
		name, values, _ := strings.Cut(bucket, "[")
		var list []json.RawMessage
		if json.Unmarshal([]byte("["+values+"]"), &list) != nil {
			out = append(out, row)
			continue
		}
		null := false
		texts := make([]string, len(list))
		for i, v := range list {
			switch text := string(v); {
			case text == "null":
				null = true
			case text == "true":
				texts[i] = "1"
			case text == "false":
				texts[i] = "0"
			case text[0] == '{' || text[0] == '[':
				texts[i] = string(millrace.AppendTextJSON(nil, text))
			default:
				texts[i] = text
			}
		}
		if !null {
			out = append(out, name+"["+strings.Join(texts, ",")+"] "+rest)
		}
	}
	return out
}
