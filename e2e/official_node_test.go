package e2e

import (
	"testing"
)

// officialWays are the transports and modes of official clients.
var officialWays = []struct {
	name     string
	how      command
	onlyJSON bool
	used     func(officialRequest) bool // shows that it was this one
}{
	{"HTTP NDJSON", command{}, true, func(r officialRequest) bool {
		return r.path == "/sync/stream" && r.contentType == "application/x-ndjson" && r.coding == "gzip"
	}},
	{"HTTP BSON, checkpoint requests", command{Checkpoints: "requests"}, false, func(r officialRequest) bool {
		return r.path == "/sync/stream" && r.contentType == "application/vnd.powersync.bson-stream" && r.coding == "gzip"
	}},
	{"RSocket", command{Transport: "web-socket"}, false, overRSocket},
	{"RSocket line by line, checkpoint requests", command{Transport: "web-socket", Sequential: true, Checkpoints: "requests"}, false, overRSocket},
}

func overRSocket(r officialRequest) bool { return r.path == "/sync/stream" && r.upgrade == "websocket" }

// checkpointPath is what a client asks for write checkpoints.
func checkpointPath(how command) string {
	if how.Checkpoints == "requests" {
		return "/sync/checkpoint-request"
	}
	return "/write-checkpoint2.json"
}

// The official client for Node, as it comes from npm, over everything it speaks.
func TestOfficialNode(t *testing.T) {
	node := startOfficialClient(t)
	for _, way := range officialWays {
		t.Run(way.name, func(t *testing.T) {
			srv := startOfficialServer(t)
			srv.onlyJSON.Store(way.onlyJSON)
			node.t = t
			o := beginOfficial(t, srv, node, command{User: "alice"}, way.how)
			o.run()
			o.do(command{Do: "close"}, nil)
			checkOfficialRequests(t, srv, way.how, way.used)
		})
	}
}

// checkOfficialRequests: the client used what it was to use.
func checkOfficialRequests(t *testing.T, srv *officialServer, how command, used func(officialRequest) bool) {
	t.Helper()
	if !srv.asked(used) {
		t.Errorf("another transport was used: %+v", srv.requests)
	}
	path := checkpointPath(how)
	if !srv.asked(func(r officialRequest) bool { return r.path == path }) {
		t.Errorf("%s was never asked: %+v", path, srv.requests)
	}
}
