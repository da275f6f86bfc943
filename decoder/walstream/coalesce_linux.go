package walstream

import (
	"bufio"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The walsender sends once per message, so a reader that wakes for each costs
// both sides more than the work itself. The socket is therefore taken out of
// Go's poller, whose edge-triggered wait wakes for every segment, and waited
// for with a low-water mark: 64 KiB or a millisecond, whichever comes first.
// Without traffic the mark is one byte and the wait has no end.
const (
	lowWater     = minRead
	coalesceTime = time.Millisecond
)

type coalescer struct {
	fd       int
	busy     bool // low-water mark is set; used by Read alone
	deadline atomic.Int64
	over     atomic.Bool
	buffered *bufio.Reader // under TLS, which reads in small pieces
}

// coalesce switches a TCP connection to coalesced reads, if the system allows.
// Nothing may be reading or writing meanwhile.
func (w *wakeup) coalesce(tls bool) {
	tcp, ok := w.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	fd := -1
	if err := raw.Control(func(orig uintptr) {
		fd, err = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil || fd < 0 {
		return
	}
	if err != nil || unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1) != nil {
		_ = unix.Close(fd)
		return
	}
	// The duplicate keeps the connection open; this ends the poller's interest.
	_ = tcp.Close()
	w.fd = &coalescer{fd: fd}
	if tls {
		w.fd.buffered = bufio.NewReaderSize(readerFunc(w.fd.read), 4*lowWater)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Read returns what has come in, at the latest coalesceTime after the first of
// it.
func (c *coalescer) Read(p []byte) (int, error) {
	if c.buffered != nil {
		return c.buffered.Read(p)
	}
	return c.read(p)
}

func (c *coalescer) read(p []byte) (int, error) {
	for {
		if !c.busy {
			if err := c.wait(unix.POLLIN, -1); err != nil {
				return 0, err
			}
			c.mark(lowWater)
			c.busy = true
		}
		if err := c.wait(unix.POLLIN, coalesceTime); err != nil {
			return 0, err
		}
		n, _, err := unix.Recvfrom(c.fd, p, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			c.mark(1)
			c.busy = false
		case err != nil:
			return 0, os.NewSyscallError("recv", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// mark sets the low-water mark. If that fails reads are only less coalesced.
func (c *coalescer) mark(n int) {
	_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, n)
}

// wait returns when the socket is ready, or after d if that is not negative.
func (c *coalescer) wait(events int16, d time.Duration) error {
	var timeout *unix.Timespec
	if d >= 0 {
		t := unix.NsecToTimespec(int64(d))
		timeout = &t
	}
	fds := [1]unix.PollFd{{Fd: int32(c.fd), Events: events}}
	for {
		if c.over.Load() {
			return io.EOF
		}
		_, err := unix.Ppoll(fds[:], timeout, nil)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return os.NewSyscallError("ppoll", err)
		}
		if timeout != nil {
			// A signal of the runtime. The wait may become a little longer.
			t := unix.NsecToTimespec(int64(d))
			timeout = &t
		}
	}
}

func (c *coalescer) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.SendmsgN(c.fd, p[done:], nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			done += n
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			left := time.Second
			if at := c.deadline.Load(); at != 0 {
				if left = time.Until(time.Unix(0, at)); left <= 0 {
					return done, os.ErrDeadlineExceeded
				}
			}
			if err := c.wait(unix.POLLOUT, left); err != nil {
				return done, err
			}
		default:
			return done, os.NewSyscallError("send", err)
		}
	}
	return done, nil
}

func (c *coalescer) setWriteDeadline(t time.Time) {
	if t.IsZero() {
		c.deadline.Store(0)
		return
	}
	c.deadline.Store(t.UnixNano())
}

func (c *coalescer) interrupt() {
	c.over.Store(true)
	// Wakes a wait; an error means that the connection is broken, which does too.
	_ = unix.Shutdown(c.fd, unix.SHUT_RDWR)
}

// Close may only be called once nothing reads or writes any more.
func (c *coalescer) Close() error { return os.NewSyscallError("close", unix.Close(c.fd)) }
