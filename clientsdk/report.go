package clientsdk

import "github.com/millrace/millrace/clientsdk/internal/machine"

// report shows the machines' state as the DB's status.
func (e *engine) report() {
	e.db.board.update(func(s *Status) {
		d, u := &e.down, &e.up
		s.Connected = d.Connected
		s.Connecting = !d.Connected && (d.Phase == machine.Authorizing || d.Phase == machine.Opening)
		s.Downloading = d.Target != nil && !d.Completed && e.apply.progress.Total > e.apply.progress.Done
		s.Downloaded, s.Total = e.apply.progress.Done, e.apply.progress.Total
		s.Held = e.held
		s.Uploading = u.Phase == machine.Uploading || u.Phase == machine.Requesting || u.Phase == machine.Settling
		s.DownloadError, s.UploadError, s.Warning = d.Err, u.Err, d.Warning
		s.Streams = nil
		for _, st := range d.Streams {
			out := StreamStatus{Name: st.Name, Default: st.IsDefault}
			for _, issue := range st.Errors {
				out.Errors = append(out.Errors, issue.Message)
			}
			s.Streams = append(s.Streams, out)
		}
		s.covered = e.covered
	})
}
