package syncrules

import (
	"fmt"
	"strings"
)

// The language of the rules has a number, newestLanguage, which is raised by one with a release
// that changes the results of a function. The function then says since which
// number it is as it is, and what it was before:
//
//	register(&function{name: "upper", version: 2, since: 2, eval: upper,
//		before: &function{name: "upper", version: 1, eval: upperASCII}})
//
// so that a release goes on to feed and to serve what was deployed by the one
// before it, with the results it had, while successors are built. What is kept
// for that is removed, and oldestLanguage raised, one minor release later.
const (
	newestLanguage = 1
	oldestLanguage = 1
)

// in is the function as it is in a language.
func (f *function) in(lang int) *function {
	for f.since > lang && f.before != nil {
		f = f.before
	}
	return f
}

// MeaningError tells that a release does not have the meaning with which a
// definition was deployed.
type MeaningError struct {
	Definition string // its key
}

func (e *MeaningError) Error() string {
	return fmt.Sprintf("definition %s was deployed by a release that gives its rules another meaning: use that release, or the one before or after it", e.Definition)
}

// CompileDeployed compiles a rules file with the meaning that it had when it was
// deployed: each definition has the given hash, by key; if there is none, any. The
// hash of a definition that lost its history ends with ~ and a number, which is
// left out of account. Rules are nil if any diagnostic is fatal, or there is an
// error, which is a *MeaningError.
func CompileDeployed(file string, src []byte, hashes map[string]string) (*Rules, Diagnostics, error) {
	return compileDeployed(file, src, hashes, newestLanguage, oldestLanguage)
}

func compileDeployed(file string, src []byte, hashes map[string]string, newest, oldest int) (*Rules, Diagnostics, error) {
	var first error
	for lang := newest; lang >= oldest; lang-- {
		rules, diagnostics := compile(file, src, lang)
		if rules == nil {
			return nil, diagnostics, nil
		}
		err := rules.differs(hashes)
		if err == nil {
			return rules, diagnostics, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, first
}

// differs names the first definition whose hash is not the given one.
func (r *Rules) differs(hashes map[string]string) error {
	for _, d := range r.Definitions() {
		if hash, _, _ := strings.Cut(hashes[d.Key], "~"); hash != "" && hash != d.Hash {
			return &MeaningError{Definition: d.Key}
		}
	}
	return nil
}
