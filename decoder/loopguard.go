package decoder

import (
	"fmt"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/decoder/catalog"
)

// A table that is copied again and again, because something on the source
// changes it over and over or because it is told otherwise than it is found,
// costs the source a read and every client a wait each time. After maxRecopies
// for one reason within millrace.RecopyWindow it is left as it is until the
// window has passed (P65).
const maxRecopies = 3

// copiedTooOften is the error of a table that is not to be copied again now;
// nil if it may be. What builds new definitions reads it in any case.
func (r *runner) copiedTooOften(saved *millrace.SourceTable, f *catalog.Table) error {
	if saved == nil || r.feed.building() != nil {
		return nil
	}
	until, reason := tooOften(r.known.recopies, saved.ID, r.config.recopies, r.config.now())
	if until.IsZero() {
		return nil
	}
	if k := r.known; k.lookAgain.IsZero() || until.Before(k.lookAgain) {
		k.lookAgain = until
	}
	return r.stop(codeLoop, "table "+f.String(),
		fmt.Sprintf("it was copied %d times within an hour, each time since: %s; it is copied again at %s",
			r.config.recopies, reason, until.UTC().Format("15:04:05 MST")),
		"find out what changes it over and over, a job that makes it again or two programs that alter it in turn, and have that end (the view millrace.schema_changes says when it was changed)")
}

// tooOften tells until when a table is not to be copied again, and for which
// reason it was; zero if it may be copied now. The recopies are in order.
func tooOften(recopies []millrace.Recopy, table millrace.TableID, limit int, now time.Time) (until time.Time, reason string) {
	times := map[string][]time.Time{}
	for _, c := range recopies {
		if c.Table == table && now.Sub(c.At) < millrace.RecopyWindow {
			times[c.Change] = append(times[c.Change], c.At)
		}
	}
	for change, at := range times {
		if len(at) < limit {
			continue
		}
		if free := at[len(at)-limit].Add(millrace.RecopyWindow); free.After(until) {
			until, reason = free, change
		}
	}
	return until, reason
}
