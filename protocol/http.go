package protocol

import (
	"math"
	"strconv"

	"github.com/millrace/millrace"
)

// Paths of the HTTP endpoints clients use.
const (
	PathStream            = "/sync/stream"
	PathWebSocket         = "/sync/ws"
	PathWriteCheckpoint   = "/write-checkpoint2.json"
	PathCheckpointRequest = "/sync/checkpoint-request"
	// PathOldWriteCheckpoint is asked by clients from before write checkpoints
	// had numbers.
	PathOldWriteCheckpoint = "/write-checkpoint.json"
)

// Content types of a stream of lines. Clients compare them whole.
const (
	MediaTypeNDJSON     = "application/x-ndjson"
	MediaTypeBSONStream = "application/vnd.powersync.bson-stream" // documents one after the other
)

// Code is an error code of the wire. Official SDKs tell credential errors, the
// PSYNC_S21… ones, from all others.
type Code string

// The codes.
const (
	CodeInvalid       Code = "PSYNC_S2001" // validation failed, or internal error
	CodeNoRoute       Code = "PSYNC_S2002"
	CodeRestarting    Code = "PSYNC_S2003" // retry later
	CodeMediaType     Code = "PSYNC_S2004"
	CodeUnauthorized  Code = "PSYNC_S2101" // malformed token, unknown key, bad claim
	CodeSignature     Code = "PSYNC_S2102"
	CodeTokenExpired  Code = "PSYNC_S2103"
	CodeTokenLifetime Code = "PSYNC_S2104"
	CodeAudience      Code = "PSYNC_S2105"
	CodeNoToken       Code = "PSYNC_S2106"
	// CodePrivateKeySource: the key set is at an address that is not allowed.
	CodePrivateKeySource Code = "PSYNC_S2203"
	CodeKeySource        Code = "PSYNC_S2204" // key set could not be fetched
	CodeNoRules          Code = "PSYNC_S2302"
	CodeConnections      Code = "PSYNC_S2304"
	CodeTooMany          Code = "PSYNC_S2305" // too many buckets or parameter results
)

// ErrorBody is what an HTTP endpoint answers instead of its result.
type ErrorBody struct {
	Code        Code
	Status      int
	Description string
	Details     string // optional
}

// AppendJSON appends the body.
func (e *ErrorBody) AppendJSON(b []byte) []byte {
	name := "Error"
	if len(e.Code) > 9 && e.Code[:9] == "PSYNC_S21" {
		name = "AuthorizationError"
	}
	b = append(b, `{"error":{"name":`...)
	b = millrace.AppendTextJSON(b, name)
	b = append(b, `,"code":`...)
	b = millrace.AppendTextJSON(b, string(e.Code))
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(e.Status), 10)
	b = append(b, `,"description":`...)
	b = millrace.AppendTextJSON(b, e.Description)
	if e.Details != "" {
		b = append(b, `,"details":`...)
		b = millrace.AppendTextJSON(b, e.Details)
	}
	return append(b, `,"severity":"error"}}`...)
}

// DecodeErrorBody reads an error answer.
func DecodeErrorBody(b []byte) (*ErrorBody, error) {
	s := &scanner{b: b}
	e := &ErrorBody{}
	err := s.fields(map[string]func() error{"error": func() error {
		return s.fields(map[string]func() error{
			"code":        func() error { w, err := s.str(); e.Code = Code(w); return err },
			"status":      intField(s, &e.Status, 0, math.MaxInt32),
			"description": stringField(s, &e.Description),
			"details":     stringField(s, &e.Details),
		}, "code")
	}}, "error")
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// AppendWriteCheckpoint appends the answer of GET /write-checkpoint2.json.
func AppendWriteCheckpoint(b []byte, id int64) []byte {
	b = append(b, `{"data":{"write_checkpoint":`...)
	return append(appendID(b, id), '}', '}')
}

// DecodeWriteCheckpoint reads the answer of GET /write-checkpoint2.json.
func DecodeWriteCheckpoint(b []byte) (int64, error) { return decodeDataID(b, "write_checkpoint") }

// AppendOldWriteCheckpoint appends the answer of GET /write-checkpoint.json: the
// checkpoint that holds what was written.
func AppendOldWriteCheckpoint(b []byte, at millrace.OpID) []byte {
	b = append(b, `{"data":{"checkpoint":`...)
	return append(appendID(b, int64(at)), '}', '}')
}

// AppendCheckpointRequest appends the body of POST /sync/checkpoint-request.
func AppendCheckpointRequest(b []byte, clientID string, id int64) []byte {
	b = append(b, `{"client_id":`...)
	b = millrace.AppendTextJSON(b, clientID)
	b = append(b, `,"checkpoint_request_id":`...)
	return append(appendID(b, id), '}')
}

// DecodeCheckpointRequest reads the body of POST /sync/checkpoint-request.
func DecodeCheckpointRequest(b []byte) (clientID string, id int64, err error) {
	s := &scanner{b: b}
	err = s.fields(map[string]func() error{
		"client_id":             func() error { return s.clientID(&clientID) },
		"checkpoint_request_id": func() (err error) { id, err = s.positiveID(); return err },
	}, "checkpoint_request_id")
	if err == nil {
		err = s.end()
	}
	return clientID, id, err
}

// AppendCheckpointRequestAnswer appends the answer of POST
// /sync/checkpoint-request: the number held after the request.
func AppendCheckpointRequestAnswer(b []byte, id int64) []byte {
	b = append(b, `{"data":{"checkpoint_request_id":`...)
	return append(appendID(b, id), '}', '}')
}

// DecodeCheckpointRequestAnswer reads the answer of POST /sync/checkpoint-request.
func DecodeCheckpointRequestAnswer(b []byte) (int64, error) {
	return decodeDataID(b, "checkpoint_request_id")
}

func decodeDataID(b []byte, name string) (int64, error) {
	s := &scanner{b: b}
	var id int64
	err := s.fields(map[string]func() error{"data": func() error {
		return s.fields(map[string]func() error{name: idField(s, &id)}, name)
	}}, "data")
	if err == nil {
		err = s.end()
	}
	return id, err
}
