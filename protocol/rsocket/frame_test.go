package rsocket

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// frames are written out by hand from the protocol's layout.
func frames(t testing.TB) []struct {
	name  string
	frame Frame
	bytes []byte
} {
	return []struct {
		name  string
		frame Frame
		bytes []byte
	}{
		{"setup of a JavaScript client", &Setup{Major: 1, Keepalive: 20 * time.Second, Lifetime: 90 * time.Second,
			MetadataMIME: "application/json", DataMIME: "application/json", Metadata: []byte("{}"), Data: []byte{}},
			unhex(t, "00000000 0500 0001 0000 00004e20 00015f90 10"+hex.EncodeToString([]byte("application/json"))+"10"+hex.EncodeToString([]byte("application/json"))+"000002 7b7d")},
		{"setup that offers resumption and asks for leases", &Setup{Major: 1, Minor: 0, Resume: []byte("ab"), Lease: true, MetadataMIME: "a", DataMIME: "b", Data: []byte("x")},
			unhex(t, "00000000 04c0 0001 0000 00000000 00000000 0002 6162 01 61 01 62 78")},
		{"keepalive to be answered", &Keepalive{Respond: true, Data: []byte{}}, unhex(t, "000000000c80 0000000000000000")},
		{"keepalive", &Keepalive{Position: 7, Data: []byte("d")}, unhex(t, "000000000c00 0000000000000007 64")},
		{"request", &RequestStream{Stream: 1, N: 10, Metadata: []byte("m"), Data: []byte("d")}, unhex(t, "00000001 1900 0000000a 000001 6d 64")},
		{"fragmented request", &RequestStream{Stream: 3, N: 1, Follows: true, Data: []byte("d")}, unhex(t, "00000003 1880 00000001 64")},
		{"more", &RequestN{Stream: 1, N: 1}, unhex(t, "00000001 2000 00000001")},
		{"cancel", &Cancel{Stream: 1}, unhex(t, "00000001 2400")},
		{"next", &Payload{Stream: 1, Next: true, Data: []byte("d")}, unhex(t, "00000001 2820 64")},
		{"complete", &Payload{Stream: 1, Complete: true, Data: []byte{}}, unhex(t, "00000001 2840")},
		{"fragment with metadata", &Payload{Stream: 1, Follows: true, Metadata: []byte{}, Data: []byte{}}, unhex(t, "00000001 2980 000000")},
		{"error of the connection", &Error{Code: RejectedSetup, Text: "[PSYNC_S2101] no"}, append(unhex(t, "00000000 2c00 00000003"), "[PSYNC_S2101] no"...)},
		{"error of a stream", &Error{Stream: 1, Code: ApplicationError}, unhex(t, "00000001 2c00 00000201")},
		{"unknown, to be ignored", &Other{Type: 0x3f, Ignore: true}, unhex(t, "00000000 fe00")},
	}
}

func TestFrames(t *testing.T) {
	for _, c := range frames(t) {
		t.Run(c.name, func(t *testing.T) {
			if got := c.frame.Append([]byte("x"))[1:]; !bytes.Equal(got, c.bytes) {
				t.Errorf("wrote %x, want %x", got, c.bytes)
			}
			got, err := Decode(c.bytes)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.frame) {
				t.Errorf("read %+v, want %+v", got, c.frame)
			}
		})
	}
}

// Every frame that is cut, at any place, is an error or another frame, never a
// panic; what a length announces must be there.
func TestCutFrames(t *testing.T) {
	for _, c := range frames(t) {
		for n := range c.bytes {
			f, err := Decode(c.bytes[:n])
			if _, setup := f.(*Setup); setup && err == nil && n < len(c.bytes)-1 {
				t.Errorf("%s cut to %d bytes is %+v", c.name, n, f)
			}
		}
	}
}

func TestMalformedFrames(t *testing.T) {
	for _, c := range []struct{ hex, words string }{
		{"", "0 bytes"},
		{"0000000024", "5 bytes"},
		{"80000001 2400", "top bit"},
		{"00000000 2400", "type 0x09 on stream 0"},
		{"00000000 1800 00000001", "type 0x06 on stream 0"},
		{"00000001 0c80 0000000000000000", "type 0x03 on stream 1"},
		{"00000001 0400", "type 0x01 on stream 1"},
		{"00000001 1800 00000000", "0 payloads"},
		{"00000001 2000 80000000", "2147483648 payloads"},
		{"00000001 2000 0000", "4 bytes are announced, 2 are there"},
		{"00000001 1900 00000001 0000ff 61", "255 bytes are announced, 1 are there"},
		{"00000000 0400 0001 0000 00000000 00000000 05 61", "5 bytes are announced"},
		{"00000000 0400 0001 0000 00000000 00000000 01 07 00", "not ASCII"},
		{"00000000 0480 0001 0000 00000000 00000000 ffff 61", "65535 bytes are announced"},
		{"00000001 2c00 00000201 ff", "not UTF-8"},
	} {
		f, err := Decode(unhex(t, c.hex))
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s gives %+v, %v; want %q", c.hex, f, err, c.words)
		}
	}
}

func TestAssembler(t *testing.T) {
	add := func(a *Assembler, list ...Frame) (out Frame, err error) {
		for i, f := range list {
			if out, err = a.Add(f); err != nil {
				return nil, err
			}
			if out != nil && i < len(list)-1 {
				t.Fatalf("frame %d gives %+v too early", i, out)
			}
		}
		return out, nil
	}
	first := func(n int) *RequestStream {
		return &RequestStream{Stream: 1, N: 5, Metadata: []byte("me"), Data: bytes.Repeat([]byte("d"), n), Follows: true}
	}
	a := &Assembler{Limit: 10}
	got, err := add(a, &RequestStream{Stream: 1, N: 5, Metadata: []byte("me"), Follows: true},
		&Payload{Stream: 1, Metadata: []byte("ta"), Data: []byte("da"), Follows: true}, &Payload{Stream: 1, Data: []byte("ta"), Next: true})
	want := &RequestStream{Stream: 1, N: 5, Metadata: []byte("meta"), Data: []byte("data")}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("whole request %+v, %v", got, err)
	}
	// A whole one passes as it is, and so does what belongs to others.
	for _, f := range []Frame{&RequestStream{Stream: 3, N: 1}, &Payload{Stream: 9, Data: bytes.Repeat([]byte("x"), 100)}, &RequestN{Stream: 1, N: 1}} {
		if got, err := a.Add(f); got != f || err != nil {
			t.Errorf("%+v gives %+v, %v", f, got, err)
		}
	}
	for name, list := range map[string][]Frame{
		"too large at once":     {&RequestStream{Stream: 1, N: 1, Data: make([]byte, 11)}},
		"too large by parts":    {first(4), &Payload{Stream: 1, Data: make([]byte, 5), Follows: true}},
		"two at a time":         {first(1), &RequestStream{Stream: 3, N: 1, Follows: true}},
		"metadata after data":   {first(1), &Payload{Stream: 1, Metadata: []byte("m")}},
		"too large by metadata": {first(1), &Payload{Stream: 1, Metadata: make([]byte, 8)}},
	} {
		_, err := add(&Assembler{Limit: 10}, list...)
		if err == nil {
			t.Errorf("%s is accepted", name)
		}
		if large := new(TooLargeError); errors.As(err, &large) != strings.HasPrefix(name, "too large") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A request that is given up leaves nothing behind.
	a = &Assembler{Limit: 10}
	if _, err := a.Add(first(5)); err != nil {
		t.Fatal(err)
	}
	if f, err := a.Add(&Cancel{Stream: 1}); f == nil || err != nil {
		t.Errorf("cancel gives %v, %v", f, err)
	}
	if f, err := a.Add(&Payload{Stream: 1}); f == nil || err != nil || a.open != nil {
		t.Errorf("a late fragment gives %v, %v", f, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range frames(f) {
		f.Add(c.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(frame.Append(nil))
		if err != nil {
			t.Fatalf("%x gives %+v, which cannot be read again: %v", b, frame, err)
		}
		if !reflect.DeepEqual(frame, again) {
			t.Fatalf("%x gives %+v, then %+v", b, frame, again)
		}
	})
}

// FuzzAssembler feeds frames cut out of any bytes: memory stays bounded.
func FuzzAssembler(f *testing.F) {
	for _, c := range frames(f) {
		f.Add(append([]byte{byte(len(c.bytes))}, c.bytes...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a := &Assembler{Limit: 100}
		for len(b) > 1 {
			n := min(int(b[0]), len(b)-1)
			frame, err := Decode(b[1 : 1+n])
			b = b[1+n:]
			if err != nil {
				continue
			}
			if _, err := a.Add(frame); err != nil {
				return
			}
			if a.open != nil && len(a.open.Data)+len(a.open.Metadata) > a.Limit {
				t.Fatalf("%d bytes are kept", len(a.open.Data)+len(a.open.Metadata))
			}
		}
	})
}
