package rsocket

import "fmt"

// Assembler puts requests together that came in fragments, one at a time.
type Assembler struct {
	// Limit bounds metadata and data of a request together, in bytes.
	Limit int

	open *RequestStream // so far; its slices are the assembler's own
}

// Add takes the next frame and gives the one to act on: the same, a whole
// request, or nil if more fragments are awaited. An error ends the connection.
func (a *Assembler) Add(f Frame) (Frame, error) {
	switch f := f.(type) {
	case *RequestStream:
		if err := a.fits(len(f.Metadata) + len(f.Data)); err != nil {
			return nil, err
		}
		if !f.Follows {
			return f, nil
		}
		if a.open != nil {
			return nil, fmt.Errorf("a request on stream %d between the fragments of one on stream %d", f.Stream, a.open.Stream)
		}
		first := *f
		first.Follows = false
		if f.Metadata != nil {
			first.Metadata = append([]byte{}, f.Metadata...)
		}
		first.Data = append([]byte{}, f.Data...)
		a.open = &first
		return nil, nil
	case *Payload:
		if a.open == nil || f.Stream != a.open.Stream {
			return f, nil
		}
		if err := a.fits(len(a.open.Metadata) + len(a.open.Data) + len(f.Metadata) + len(f.Data)); err != nil {
			return nil, err
		}
		if f.Metadata != nil {
			if len(a.open.Data) > 0 {
				return nil, fmt.Errorf("metadata after data in the fragments of stream %d", f.Stream)
			}
			a.open.Metadata = append(a.open.Metadata, f.Metadata...)
		}
		a.open.Data = append(a.open.Data, f.Data...)
		if f.Follows {
			return nil, nil
		}
		whole := a.open
		a.open = nil
		return whole, nil
	case *Cancel:
		a.drop(f.Stream)
	case *Error:
		a.drop(f.Stream)
	}
	return f, nil
}

func (a *Assembler) drop(stream uint32) {
	if a.open != nil && a.open.Stream == stream {
		a.open = nil
	}
}

// TooLargeError is the error of a request beyond the limit.
type TooLargeError struct{ Limit int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the request is larger than %d bytes", e.Limit)
}

func (a *Assembler) fits(n int) error {
	if n > a.Limit {
		return &TooLargeError{Limit: a.Limit}
	}
	return nil
}
