package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/millrace/millrace"
	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/store"
	"github.com/millrace/millrace/syncrules"
)

// devPoll is how often the rules file of the development servers is looked at.
const devPoll = 250 * time.Millisecond

// watchRulesFile deploys the rules file whenever it is saved, until ctx ends.
// What is wrong with it is printed, and the rules in force stay.
func watchRulesFile(ctx context.Context, cfg *config.Config, out io.Writer, log *slog.Logger) {
	w := &rulesFile{path: cfg.Rules, name: shownPath(cfg.Rules), uri: string(cfg.Sidecar.URI), out: out, log: log}
	for pause(ctx, devPoll) {
		content, saved := w.look()
		if !saved {
			continue
		}
		if err := w.deploy(ctx, content); err != nil && ctx.Err() == nil {
			fmt.Fprintf(out, "%s is not deployed: %s\n", w.name, message(err))
		}
	}
}

// rulesFile is a rules file as it was last seen.
type rulesFile struct {
	path, name, uri string
	out             io.Writer
	log             *slog.Logger

	stamp    fileStamp
	settled  bool // the stamp's content was taken
	content  string
	deployed bool // something was, or was found to be
}

type fileStamp struct {
	size int64
	at   time.Time
}

// look gives the content if it is another one and the file was left alone for
// a while: an editor may be writing it.
func (w *rulesFile) look() (content string, saved bool) {
	info, err := os.Stat(w.path)
	if err != nil {
		return "", false // between two writes of an editor
	}
	stamp := fileStamp{info.Size(), info.ModTime()}
	if stamp != w.stamp {
		w.stamp, w.settled = stamp, false
		return "", false
	}
	if w.settled {
		return "", false
	}
	b, err := os.ReadFile(w.path)
	if err != nil {
		return "", false
	}
	w.settled = true
	if w.deployed && string(b) == w.content {
		return "", false
	}
	w.content = string(b)
	return w.content, true
}

// deploy asks for the content unless it is what is there already, and waits.
// The first time, what the decoder deploys at its start comes first.
func (w *rulesFile) deploy(ctx context.Context, content string) error {
	first := !w.deployed
	w.deployed = true
	if err := checkRules(w.name, []byte(content)); err != nil {
		return errors.Join(err, errors.New("the rules in force stay as they are"))
	}
	st, err := store.Open(ctx, w.uri, store.Options{Logger: w.log})
	if err != nil {
		return err
	}
	rules, err := st.Rules(ctx)
	if err != nil {
		return err
	}
	defer rules.Close()
	d, err := rules.Deployed(ctx)
	if err != nil {
		return err
	}
	same := func(s *millrace.RuleSet) bool {
		return s != nil && syncrules.SameContent([]byte(s.Content), []byte(content))
	}
	switch {
	case first && d.Active == nil && d.Building == nil, d.Building == nil && same(d.Active), same(d.Building):
		return nil
	}
	began := time.Now()
	id, err := rules.Request(ctx, millrace.RuleRequest{Kind: millrace.RequestDeploy, Content: content, File: w.name})
	if err != nil {
		return err
	}
	fmt.Fprintf(w.out, "%s was saved: deploying it\n", w.name)
	for {
		p, err := rules.Progress(ctx, id)
		if err != nil {
			return err
		}
		switch {
		case p.State == "refused":
			return errors.New(p.Message)
		case p.State == "superseded", p.State == "done" && p.SetState == millrace.RuleSetAbandoned:
			fmt.Fprintln(w.out, "Another deploy took its place")
			return nil
		case p.State == "done" && p.SetState != millrace.RuleSetBuilding:
			fmt.Fprintf(w.out, "Rule set %d is in force (%s rows copied, %s)\n", p.RuleSet, grouped(p.Rows), time.Since(began).Round(time.Millisecond))
			return nil
		}
		if !pause(ctx, rulesPoll) {
			return ctx.Err()
		}
		if next, saved := w.look(); saved {
			return w.deploy(ctx, next) // takes the place of this one
		}
	}
}

// shownPath is a path as a person would write it.
func shownPath(path string) string {
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, path); err == nil && len(rel) < len(path) {
			return rel
		}
	}
	return path
}
