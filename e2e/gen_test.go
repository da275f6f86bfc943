package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGeneratedSchemaOfTheOfficialSDK: the types of the unmodified official SDK
// take what `millrace gen powersync-ts` writes, and so does the SDK itself.
func TestGeneratedSchemaOfTheOfficialSDK(t *testing.T) {
	t.Parallel()
	compiler, err := filepath.Abs(filepath.Join("..", "clientsdk", "typescript", "node_modules", ".bin", "tsc"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(compiler); err != nil {
		t.Skip("there is no TypeScript compiler: npm ci in clientsdk/typescript installs one, as make test does")
	}
	packages := officialPackages(t)
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(packages, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	schema := readFile(t, filepath.Join("..", "cmd", "millrace", "testdata", "gen", "powersync.ts"))
	for name, text := range map[string]string{
		"schema.ts": schema,
		// What the types say is what the rules give; a column that is not there is
		// an error.
		"use.ts": `import type { Database } from "./schema.js";
export const todo: Partial<Database["todos"]> = { id: "1", title: "milk", completed: 1 };
// @ts-expect-error there is no such column
export const wrong: Partial<Database["todos"]> = { nope: 1 };
import { AppSchema } from "./schema.js";
AppSchema.validate();
`,
		"package.json": `{"type": "module"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tsc := exec.CommandContext(t.Context(), compiler,
		"--strict", "--skipLibCheck", "--target", "ES2022", "--module", "nodenext", "--moduleResolution", "nodenext", "--outDir", "out", "schema.ts", "use.ts")
	tsc.Dir = dir
	if said, err := tsc.CombinedOutput(); err != nil {
		t.Fatalf("tsc: %v\n%s", err, said)
	}
	node := exec.CommandContext(t.Context(), node24(t, packages), filepath.Join("out", "use.js"))
	node.Dir = dir
	if said, err := node.CombinedOutput(); err != nil {
		t.Errorf("the SDK refuses the schema: %v\n%s", err, said)
	}
}
