package relay

import (
	"strconv"
	"strings"

	"github.com/millrace/millrace/protocol"
)

// streamEncoding chooses what a stream is written in: BSON if the client prefers
// it to NDJSON, which is for all others.
func streamEncoding(accept []string) protocol.Encoding {
	json, bson := 0.0, 0.0
	for value, q := range qualities(accept) {
		switch {
		case strings.EqualFold(value, protocol.MediaTypeBSONStream):
			bson = max(bson, q)
		case strings.EqualFold(value, protocol.MediaTypeNDJSON):
			json = max(json, q)
		}
	}
	if bson > json {
		return protocol.BSON
	}
	return protocol.JSON
}

// mediaType is the exact Content-Type of a stream: clients compare it whole.
func mediaType(as protocol.Encoding) string {
	if as == protocol.BSON {
		return protocol.MediaTypeBSONStream
	}
	return protocol.MediaTypeNDJSON
}

// contentCoding chooses a Content-Encoding: the one the client likes best, of
// equals zstd before gzip; "" for none.
func contentCoding(acceptEncoding []string) string {
	best, name := 0.0, ""
	consider := func(coding string, q float64) {
		if q > best {
			best, name = q, coding
		}
	}
	all := qualities(acceptEncoding)
	for _, coding := range []string{"zstd", "gzip"} {
		for value, q := range all {
			if strings.EqualFold(value, coding) {
				consider(coding, q)
			}
		}
	}
	if q, said := all["identity"]; said && q > best {
		return ""
	}
	return name
}

// qualities reads a header of values with weights; those that are not numbers
// count as 0. Parameters other than q are ignored.
func qualities(headers []string) map[string]float64 {
	out := map[string]float64{}
	for _, header := range headers {
		for part := range strings.SplitSeq(header, ",") {
			value, params, _ := strings.Cut(part, ";")
			q := 1.0
			for p := range strings.SplitSeq(params, ";") {
				if name, text, ok := strings.Cut(p, "="); ok && strings.EqualFold(strings.TrimSpace(name), "q") {
					n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
					if err != nil || !(n >= 0 && n <= 1) {
						n = 0
					}
					q = n
				}
			}
			if value = strings.ToLower(strings.TrimSpace(value)); value != "" {
				out[value] = q
			}
		}
	}
	return out
}
