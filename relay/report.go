package relay

import (
	"context"
	"time"

	"github.com/millrace/millrace"
)

// reportedSessions bounds how many sessions a report lists.
const reportedSessions = 50_000

// report describes this relay to the sidecar, for the views relays and sessions,
// until ctx ends.
func (r *Relay) report(ctx context.Context) {
	tick := time.NewTicker(r.limits.ReportEvery)
	defer tick.Stop()
	failing := false
	for {
		if err := r.source.Report(ctx, r.describe()); err != nil && ctx.Err() == nil {
			if !failing {
				r.log.Warn("reporting this relay's sessions", "error", err)
			}
			failing = true
		} else {
			failing = false
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Relay) describe() millrace.RelayReport {
	status := r.publisher.currentStatus()
	report := millrace.RelayReport{ID: r.id, Name: r.cfg.Name, Listen: r.cfg.Listen, StartedAt: r.started, OpID: status.head.OpID}
	if status.head.RuleSet != 0 {
		report.RuleSets = []millrace.RuleSetID{status.head.RuleSet}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	report.Connections = len(r.sessions)
	for s := range r.sessions {
		if len(report.Sessions) == reportedSessions {
			break
		}
		report.Sessions = append(report.Sessions, millrace.SessionReport{
			ID: s.id, User: s.user, ClientID: s.clientID, Transport: s.kind, Agent: s.agent,
			Buckets: int(s.buckets.Load()), Sent: millrace.OpID(s.sent.Load()), Sending: millrace.OpID(s.sending.Load()), Acknowledged: millrace.OpID(s.acknowledged.Load()),
			Bytes: s.bytes.Load(), Since: s.since,
		})
	}
	return report
}
