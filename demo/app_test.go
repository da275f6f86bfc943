package demo

import (
	"io/fs"
	"strings"
	"testing"
)

func TestAppHasAPage(t *testing.T) {
	files, built := App()
	page, err := fs.ReadFile(files, "index.html")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Contains(string(page), "make demo"); got == built {
		t.Errorf("built is %v, and the page is\n%s", built, page)
	}
}

func TestUnbuiltAppTellsHowToBuildIt(t *testing.T) {
	page, err := fs.ReadFile(unbuilt{}, "index.html")
	if err != nil || !strings.Contains(string(page), "make demo") || !strings.Contains(string(page), `href="/status"`) {
		t.Errorf("%s (%v)", page, err)
	}
	if _, err := fs.Stat(unbuilt{}, "assets/x.js"); err == nil {
		t.Error("there are other files")
	}
}
