package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/config"
	"github.com/millrace/millrace/decoder/catalog"
	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/inspect"
)

// chosenSources are the sources that flags name.
type chosenSources struct {
	list       []config.Source
	rules      string // file that belongs to them; empty if none is known
	maxBuckets int    // limit of the relay; 0 if it is not known
}

// chooseSources gives the database of --source, else the sources of the
// configuration -c, else that of the development servers in the folder data.
func chooseSources(source, file, data string) (chosenSources, error) {
	one := func(uri string) []config.Source {
		return []config.Source{{Name: "source", URI: config.URI(uri), Tags: []string{"default"}}}
	}
	switch {
	case source != "" && file != "":
		return chosenSources{}, usage(errors.New("--source and -c exclude each other"))
	case source != "":
		return chosenSources{list: one(source)}, nil
	case file != "":
		cfg, err := loadConfig(file)
		if err != nil {
			return chosenSources{}, err
		}
		if len(cfg.Sources) == 0 {
			return chosenSources{}, usage(fmt.Errorf("%s has no sources: name a database with --source", file))
		}
		return chosenSources{cfg.Sources, cfg.Rules, int(cfg.Relay.MaxBucketsPerUser)}, nil
	}
	dev, err := devserver.ReadDevFile(data)
	if err != nil {
		return chosenSources{}, usage(fmt.Errorf("which source? Name a database with --source or a configuration with -c: %w", err))
	}
	return chosenSources{list: one(dev.SourceURI), rules: dev.Rules}, nil
}

// connectSources connects to sources, to read their tables and rows; closeAll
// ends that.
func connectSources(ctx context.Context, list []config.Source) (connected []inspect.Source, closeAll func(), err error) {
	closeAll = func() {
		for _, s := range connected {
			s.Catalog.Close()
		}
	}
	for _, s := range list {
		server, err := catalog.Connect(ctx, catalog.Config{URI: string(s.URI), Publication: s.Publication})
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		connected = append(connected, inspect.Source{Name: s.Name, Tags: s.Tags, Catalog: server})
	}
	return connected, closeAll, nil
}
