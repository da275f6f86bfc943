package demo

import (
	"embed"
	"io/fs"
)

// web holds unbuilt.html and, in app, what `make app` has built. The latter is
// not in the repository: without it the program builds all the same.
//
//go:embed all:web
var web embed.FS

// App gives the files of the to-do app, index.html and assets. Where the
// program was built without it, built is false and index.html is a page that
// tells how to build it.
func App() (files fs.FS, built bool) {
	if app, err := fs.Sub(web, "web/app"); err == nil {
		if _, err := fs.Stat(app, "index.html"); err == nil {
			return app, true
		}
	}
	return unbuilt{}, false
}

// unbuilt has one file, index.html.
type unbuilt struct{}

// Open implements fs.FS.
func (unbuilt) Open(name string) (fs.File, error) {
	if name != "index.html" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return web.Open("web/unbuilt.html")
}
