// Builds dist: the library with its declarations, and the worker with SQLite in
// it, so that an app needs nothing but this package.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { rolldown } from "rolldown";

const bundles = [
  { input: { index: "src/index.ts", react: "src/react.ts" }, external: ["react"] },
  { input: { worker: "src/worker.ts" }, minify: true },
  { input: { broker: "src/broker.ts" } },
];

// The SQLite build names workers of file systems that are not used here; a
// bundler that finds the names looks for the files.
const sqliteOnly = {
  name: "sqlite-only",
  transform(code, id) {
    if (!id.endsWith("sqlite-wasm/dist/index.mjs")) return null;
    let out = code;
    for (const name of ["sqlite3-opfs-async-proxy.js", "sqlite3-worker1.mjs"]) {
      const found = `new URL("${name}", import.meta.url)`;
      if (!out.includes(found)) throw new Error(`the SQLite build has no ${found} any more: look at its workers again`);
      out = out.replaceAll(found, JSON.stringify(name));
    }
    return out;
  },
};

rmSync("dist", { recursive: true, force: true });
mkdirSync("dist");
for (const { minify = false, external = [], input } of bundles) {
  const bundle = await rolldown({ input, external, plugins: [sqliteOnly], platform: "browser", onLog: (level, log, handler) => level === "warn" && log.code === "UNRESOLVED_IMPORT" ? handler("error", log) : handler(level, log) });
  await bundle.write({ dir: "dist", format: "esm", minify, chunkFileNames: "shared.js", sourcemap: false });
}
copyFileSync("node_modules/@sqlite.org/sqlite-wasm/dist/sqlite3.wasm", "dist/sqlite3.wasm");
execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"], { stdio: "inherit" });

for (const file of ["index.js", "react.js", "worker.js", "broker.js", "sqlite3.wasm"]) {
  const bytes = statSync(`dist/${file}`).size;
  const gzip = gzipSync(readFileSync(`dist/${file}`)).length;
  console.log(`${file.padEnd(14)} ${(bytes / 1024).toFixed(1).padStart(8)} KiB ${(gzip / 1024).toFixed(1).padStart(8)} KiB gzip`);
}
