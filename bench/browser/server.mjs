// What is measured against: `millrace dev` with rows of its own, and the pages.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const types = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };

/** Starts the program with a table of rows; resolves once its buckets are built. */
export async function startMillrace({ binary, rows, dir, signal }) {
  const schema = join(dir, "schema.sql");
  const data = join(dir, "data");
  writeFileSync(schema, readFileSync(join(here, "schema.sql"), "utf8").replaceAll("ROWS", String(rows)));
  const args = ["dev", "--data", data, "--schema", schema, "--rules", join(here, "sync.yaml"), "--listen", "127.0.0.1:0"];
  const log = join(dir, "dev.log");
  const child = spawn(binary, args, { stdio: ["ignore", "pipe", "pipe"] });
  const out = createWriteStream(log);
  child.stderr.pipe(out, { end: false });
  const ended = once(child, "exit");
  const stop = async () => {
    child.kill("SIGINT");
    await ended;
    out.end();
  };
  signal.addEventListener("abort", () => child.kill("SIGINT"));
  const running = new Promise((resolve, reject) => {
    let said = "";
    child.stdout.on("data", (b) => {
      out.write(b);
      said += b;
      if (said.includes("Millrace is running")) resolve();
    });
    ended.then(([code]) => reject(new Error(`millrace dev ended with ${code}:\n${said}`)), reject);
  });
  try {
    await running;
    const dev = JSON.parse(readFileSync(join(data, "dev.json"), "utf8"));
    return { url: dev.url.replace(/\/$/, ""), token: dev.tokens.alice, stop };
  } catch (e) {
    await stop();
    throw e;
  }
}

/** Reads a whole first sync and keeps nothing: the server is warm after it. Gives the rows. */
export async function readThrough({ url, token }, signal) {
  const res = await fetch(url + "/sync/stream", {
    method: "POST",
    signal,
    headers: { authorization: `Token ${token}`, "content-type": "application/json" },
    body: JSON.stringify({ buckets: [], include_checksum: true, raw_data: true, client_id: "warm-up" }),
  });
  if (!res.ok) throw new Error(`the stream: ${res.status} ${await res.text()}`);
  let rows = 0;
  let rest = "";
  const decoder = new TextDecoder();
  for await (const part of res.body) {
    const lines = (rest + decoder.decode(part, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines.filter((l) => l !== "")) {
      const message = JSON.parse(line);
      if (message.data) rows += message.data.data.filter((op) => op.op === "PUT").length;
      if (message.checkpoint_complete) return rows; // leaving the loop ends the request
    }
  }
  throw new Error(`the stream ended after ${rows} rows`);
}

/** Serves the pages, the SDK and the official client. */
export async function servePages() {
  const bundle = await build({
    entryPoints: [join(here, "official.js")], bundle: true, format: "esm", minify: true, write: false, logLevel: "error",
  });
  const folders = {
    "/sdk/": join(here, "../../clientsdk/typescript/dist/"),
    "/official/worker/": join(here, "node_modules/@powersync/web/dist/worker/"),
    "/": here,
  };
  const server = createServer((req, res) => {
    const path = normalize(new URL(req.url, "http://x").pathname);
    const send = (type, body) => res.writeHead(200, { "content-type": type, "cache-control": "no-store" }).end(body);
    if (path === "/official.js") return send("text/javascript", bundle.outputFiles[0].contents);
    const [prefix, folder] = Object.entries(folders).find(([p]) => path.startsWith(p)) ?? [];
    const file = prefix === undefined ? "" : join(folder, path.slice(prefix.length));
    if (file === "" || file.includes(`..${sep}`) || types[extname(file)] === undefined || !existsSync(file)) return res.writeHead(404).end();
    send(types[extname(file)], readFileSync(file));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://127.0.0.1:${server.address().port}`, stop: () => (server.closeAllConnections(), server.close()) };
}
