package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/devserver"
	"github.com/millrace/millrace/inspect/doctor"
)

// Without -c and without millrace.yaml the development servers are looked at.
func TestDoctorOfTheDevelopmentServers(t *testing.T) {
	dir := t.TempDir()
	b, err := json.Marshal(devserver.DevFile{
		SourceURI: "postgres://u:secret@127.0.0.1:1/app", SidecarURI: "postgres://u:secret@127.0.0.1:1/side",
		Rules: writeFile(t, "sync.yaml", goodRules),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dev.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := run(t, "doctor", "--data", dir, "--json")
	var found []doctor.Finding
	if err := json.Unmarshal([]byte(out), &found); err != nil || code != exitUnreachable {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, errOut)
	}
	about := map[string]bool{}
	for _, f := range found {
		about[f.About] = about[f.About] || f.Level == doctor.Unreachable
	}
	if !about["source main"] && !about["source"] || !about["sidecar"] || strings.Contains(out, "secret") {
		t.Errorf("found %s", out)
	}

	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing runs there", []string{"--data", t.TempDir()}, "there is no millrace.yaml: millrace dev does not run in"},
		{"a configuration that was named and is not there", []string{"--data", dir, "-c", "millrace.yaml"}, "there is no configuration file millrace.yaml"},
	} {
		if _, errOut, code := run(t, append([]string{"doctor"}, tc.args...)...); code != exitUsage || !strings.Contains(errOut, tc.want) {
			t.Errorf("%s: exit code %d: %s", tc.name, code, errOut)
		}
	}
}
