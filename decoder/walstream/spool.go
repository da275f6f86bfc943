package walstream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
)

// spool keeps the files of transactions that outgrew their memory.
type spool struct {
	dir    string
	prefix string // of this slot's files
	bytes  atomic.Int64
	freed  chan struct{} // signalled when a file goes

	mu    sync.Mutex
	files map[*spoolFile]bool
}

type spoolFile struct {
	path string
	file *os.File
	size int64
}

const spoolSuffix = ".wal"

func newSpool(dir, slot string) *spool {
	return &spool{dir: dir, prefix: "spool-" + slot + "-", freed: make(chan struct{}, 1), files: map[*spoolFile]bool{}}
}

// clean makes the directory and removes what a crashed run left. To be called
// once the slot is ours: then no other run of it can be writing.
func (s *spool) clean() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("spool directory: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), s.prefix) && strings.HasSuffix(e.Name(), spoolSuffix) {
			if err := os.Remove(filepath.Join(s.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove leftover spool file: %w", err)
			}
		}
	}
	return nil
}

func (s *spool) create() (*spoolFile, error) {
	file, err := os.CreateTemp(s.dir, s.prefix+"*"+spoolSuffix)
	if err != nil {
		return nil, fmt.Errorf("create spool file: %w", err)
	}
	f := &spoolFile{path: file.Name(), file: file}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[f] = true
	return f, nil
}

// write appends to the file of the transaction being read.
func (s *spool) write(f *spoolFile, b []byte) error {
	if _, err := f.file.Write(b); err != nil {
		return fmt.Errorf("spool %d bytes of a large transaction to %s (free disk space there): %w",
			len(b), s.dir, err)
	}
	f.size += int64(len(b))
	s.bytes.Add(int64(len(b)))
	return nil
}

// remove closes and deletes a file.
func (s *spool) remove(f *spoolFile) {
	s.mu.Lock()
	known := s.files[f]
	delete(s.files, f)
	s.mu.Unlock()
	// Nothing reads the file any more and clean removes what cannot be removed
	// now, so neither error matters.
	_ = f.file.Close()
	_ = os.Remove(f.path)
	if !known {
		return
	}
	s.bytes.Add(-f.size)
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// removeAll deletes the files that were not released, keeping those open that
// a consumer may still be reading.
func (s *spool) removeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.files {
		_ = os.Remove(f.path)
	}
}
