package transport

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/clientsdk/internal/machine"
	"github.com/millrace/millrace/protocol"
)

// httpStream is a POST /sync/stream in NDJSON.
type httpStream struct {
	body   io.ReadCloser
	r      *bufio.Reader
	cancel context.CancelFunc
	alarm  *time.Timer // cancels the request after a silence
	silent time.Duration
	quiet  atomic.Bool // the alarm went off
	line   []byte
}

// OpenHTTP opens a stream over HTTP.
func (c *Client) OpenHTTP(ctx context.Context, token string, req *Request) (Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &httpStream{cancel: cancel, silent: c.Silence}
	s.alarm = time.AfterFunc(c.Silence, func() {
		s.quiet.Store(true)
		cancel()
	})
	r, err := c.request(ctx, http.MethodPost, protocol.PathStream, token, bytes.NewReader(req.AppendJSON(nil)))
	if err != nil {
		s.Close()
		return nil, err
	}
	r.Header.Set("Accept", protocol.MediaTypeNDJSON)
	r.Header.Set("Cache-Control", "no-cache")
	res, err := c.HTTP.Do(r)
	if err != nil {
		s.Close()
		return nil, s.lost("open the sync stream", err)
	}
	s.body = res.Body
	if res.StatusCode != http.StatusOK {
		err := refused(res)
		s.Close()
		return nil, err
	}
	if t, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || t != protocol.MediaTypeNDJSON {
		s.Close()
		return nil, failed(machine.EndProtocol, "open the sync stream: the answer is %q, not %s: is the endpoint a sync server?", res.Header.Get("Content-Type"), protocol.MediaTypeNDJSON)
	}
	s.r = bufio.NewReaderSize(res.Body, 64<<10)
	return s, nil
}

// InBand implements Stream.
func (s *httpStream) InBand() bool { return false }

// Send implements Stream.
func (s *httpStream) Send(context.Context, protocol.Frame) error {
	return errors.New("an HTTP stream takes no messages")
}

// Next implements Stream.
func (s *httpStream) Next(ctx context.Context) (protocol.Line, error) {
	stop := context.AfterFunc(ctx, s.cancel)
	defer stop()
	for {
		s.alarm.Reset(s.silent)
		text, err := s.read()
		s.alarm.Stop() // a consumer may take its time
		if err != nil {
			return nil, err
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		l, err := protocol.DecodeLine(text)
		if err != nil {
			return nil, failed(machine.EndProtocol, "a line of the sync stream: %w", err)
		}
		return l, nil
	}
}

func (s *httpStream) read() ([]byte, error) {
	s.line = s.line[:0]
	for {
		part, err := s.r.ReadSlice('\n')
		if err == nil && len(s.line) == 0 {
			return part, nil
		}
		s.line = append(s.line, part...)
		switch {
		case err == nil:
			return s.line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, s.lost("the sync stream ended", err)
		case len(s.line) > MaxLineBytes:
			return nil, failed(machine.EndProtocol, "a line of the sync stream is longer than %d bytes", MaxLineBytes)
		}
	}
}

func (s *httpStream) lost(what string, err error) error {
	if s.quiet.Load() {
		return failed(machine.EndLost, "%s: the server was silent for %v", what, s.silent)
	}
	return failed(machine.EndLost, "%s: %w", what, err)
}

// Close implements Stream.
func (s *httpStream) Close() {
	s.alarm.Stop()
	s.cancel()
	if s.body != nil {
		s.body.Close() // the request was cancelled: nothing to be told
	}
}
