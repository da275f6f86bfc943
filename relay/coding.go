package relay

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// coding is the Content-Encoding of a stream. What was written can be read by
// the client at once, and what several sessions send is compressed once. None
// keeps state between writes, so that an idle client costs nothing.
type coding interface {
	name() string // "" for none
	begin() error
	write(c chunk) error
	end() error
}

func newCoding(name string, w io.Writer) coding {
	switch name {
	case "gzip":
		return &gzipStream{w: w}
	case "zstd":
		return zstdStream{w}
	}
	return identity{w}
}

type identity struct{ w io.Writer }

func (identity) name() string { return "" }
func (identity) begin() error { return nil }
func (identity) end() error   { return nil }

func (i identity) write(c chunk) error {
	_, err := i.w.Write(c.text)
	return err
}

// gzipStream writes one long gzip member; short writes are stored as they are.
type gzipStream struct {
	w    io.Writer
	crc  uint32
	size uint32
}

func (*gzipStream) name() string { return "gzip" }

// storeBelow is the length under which compressing a write by itself gains
// nothing worth the time.
const storeBelow = 256

func (g *gzipStream) begin() error {
	_, err := g.w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255})
	return err
}

func (g *gzipStream) write(c chunk) error {
	g.crc = crc32.Update(g.crc, crc32.IEEETable, c.text)
	g.size += uint32(len(c.text))
	switch {
	case len(c.text) < storeBelow:
		return g.store(c.text, 0, syncMarker...)
	case c.shared != nil:
		_, err := g.w.Write(c.shared.deflated.get(c.text, deflateBlocks))
		return err
	}
	return flate.StatelessDeflate(g.w, c.text, false, nil)
}

// deflateBlocks gives blocks that refer to nothing before them and end at a byte.
func deflateBlocks(text []byte) []byte {
	var b bytes.Buffer
	flate.StatelessDeflate(&b, text, false, nil) // a bytes.Buffer does not fail
	return b.Bytes()
}

// syncMarker is an empty stored block. Some decompressors hand out what they
// have only when they meet one.
var syncMarker = []byte{0, 0, 0, 0xff, 0xff}

// store writes a stored block, which begins and ends at a byte.
func (g *gzipStream) store(b []byte, final byte, then ...byte) error {
	block := make([]byte, 5, 5+len(b)+len(then))
	block[0] = final
	binary.LittleEndian.PutUint16(block[1:], uint16(len(b)))
	binary.LittleEndian.PutUint16(block[3:], ^uint16(len(b)))
	_, err := g.w.Write(append(append(block, b...), then...))
	return err
}

func (g *gzipStream) end() error {
	if err := g.store(nil, 1); err != nil {
		return err
	}
	var tail [8]byte
	binary.LittleEndian.PutUint32(tail[:], g.crc)
	binary.LittleEndian.PutUint32(tail[4:], g.size)
	_, err := g.w.Write(tail[:])
	return err
}

// zstdStream writes a frame for each chunk: a stream may be any number of them.
type zstdStream struct{ w io.Writer }

func (zstdStream) name() string { return "zstd" }
func (zstdStream) begin() error { return nil }
func (zstdStream) end() error   { return nil }

func (z zstdStream) write(c chunk) error {
	var frame []byte
	if c.shared != nil {
		frame = c.shared.framed.get(c.text, zstdFrame)
	} else {
		frame = zstdFrame(c.text)
	}
	_, err := z.w.Write(frame)
	return err
}

// zstdWindow bounds what a client must keep to decompress; browsers accept 8 MiB.
const zstdWindow = 1 << 20

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(zstdWindow),
		zstd.WithSingleSegment(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
})

func zstdFrame(text []byte) []byte { return zstdEncoder().EncodeAll(text, nil) }
