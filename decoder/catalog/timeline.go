package catalog

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace/millrace"
)

// switchPoint reads a timeline history file: lines of "timeline, position where
// it was left, reason".
func switchPoint(content string, timeline int32) (millrace.LSN, error) {
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 2 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		id, err := strconv.ParseInt(fields[0], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("timeline history: %w", err)
		}
		if int32(id) == timeline {
			return millrace.ParseLSN(fields[1])
		}
	}
	return 0, fmt.Errorf("timeline history does not have timeline %d", timeline)
}
