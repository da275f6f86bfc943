// Measures a first sync in Chromium, with this SDK and with the official web
// client, from the same server in the same run.
//
//   node run.mjs [--rows 100000] [--runs 3] [--millrace ../../bin/millrace] [--json]
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, loadavg, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { chromium } from "playwright-core";
import { launchOptions } from "../../e2e/browser/chromium.mjs";
import { readThrough, servePages, startMillrace } from "./server.mjs";

/** What it is asked for; an error in the words of the one who asked. */
function readFlags() {
  const { values } = parseArgs({
    options: {
      rows: { type: "string", default: "100000" },
      runs: { type: "string", default: "3" },
      millrace: { type: "string", default: fileURLToPath(new URL("../../bin/millrace", import.meta.url)) },
      json: { type: "boolean", default: false },
    },
  });
  const positive = (name) => {
    const n = Number(values[name]);
    if (!Number.isSafeInteger(n) || n < 1) throw new Error(`--${name} ${values[name]}: must be a whole number above 0`);
    return n;
  };
  return { ...values, rows: positive("rows"), runs: positive("runs") };
}

// The official client's default storage, and the one its makers recommend
// where the browser's private file system is there.
const clients = [
  { name: "@millrace/client", script: "/millrace.js", vfs: "" },
  { name: "@powersync/web, IDBBatchAtomicVFS", script: "/official.js", vfs: "IDBBatchAtomicVFS" },
  { name: "@powersync/web, OPFSCoopSyncVFS", script: "/official.js", vfs: "OPFSCoopSyncVFS" },
];

/** Characters in each row's note; see schema.sql. */
const noteLength = 128;

/** How long reads go on before and after the first tab closes, in milliseconds. */
const before = 300;
const after = 2000;

/** Ends everything; the exit code is the shell's for the signal. */
const interrupt = new AbortController();
for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143]]) {
  process.on(signal, () => {
    if (interrupt.signal.aborted) return;
    process.exitCode = code;
    interrupt.abort(new Error("interrupted, nothing was measured"));
    setTimeout(() => process.exit(), 15_000).unref(); // whatever does not end by itself is not waited for
  });
}

/** One first sync with a new profile on disk, then a second tab that outlives the first. */
async function measure(client, server, pages, dir, rows) {
  const context = await chromium.launchPersistentContext(mkdtempSync(join(dir, "profile-")), quiet());
  const giveUp = () => void context.close();
  interrupt.signal.addEventListener("abort", giveUp);
  context.setDefaultTimeout(60_000);
  const query = new URLSearchParams({ client: client.script, file: "bench", vfs: client.vfs, endpoint: server.url, token: server.token });
  const open = async () => {
    const page = await context.newPage();
    const broken = new Promise((_, reject) => page.once("pageerror", reject));
    await page.goto(`${pages.url}/page.html?${query}`);
    await Promise.race([page.waitForFunction("window.bench"), broken]);
    broken.catch(() => {}); // what comes later shows in the figures
    return page;
  };
  try {
    interrupt.signal.throwIfAborted();
    const first = await open();
    const sync = await first.evaluate("bench.sync()");
    if (sync.rows !== rows || sync.chars !== rows * noteLength) throw new Error(`${client.name} shows ${sync.rows} rows with ${sync.chars} characters instead of ${rows} with ${rows * noteLength}`);
    if (!sync.persistent) throw new Error(`${client.name} keeps its database in memory only`);
    const second = await open();
    await second.evaluate("bench.sync()"); // it is in sync already: this connects it
    await second.evaluate(`bench.beginReads("item-" + "1".padStart(32, "0"))`);
    await sleep(before);
    await first.close();
    await sleep(after);
    return { ...sync, ...(await second.evaluate("bench.endReads()")) };
  } finally {
    interrupt.signal.removeEventListener("abort", giveUp);
    await context.close();
  }
}

/** Signals are for this program to act on, not for Playwright. */
const quiet = () => ({ ...launchOptions(), handleSIGINT: false, handleSIGTERM: false, handleSIGHUP: false });

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor((list.length - 1) / 2)];

function summary(client, results, rows) {
  const of = (key) => median(results.map((r) => r[key]));
  return {
    client: client.name, perRun: results.map((r) => rows / (r.ms / 1000)), rows: results.map((r) => r.rows), rowsPerSecond: rows / (of("ms") / 1000), milliseconds: of("ms"),
    longestFrame: of("longestFrame"), readAll: of("readMs"), takeOver: of("longestRead"), failedReads: Math.max(...results.map((r) => r.failures)),
  };
}

function print({ rows, runs, warm, load, chromiumVersion, measured, ratios }) {
  console.log(`* ${new Date().toISOString().slice(0, 16).replace("T", " ")} UTC, ${cpus()[0].model.trim()}, ${cpus().length} CPUs, ${Math.round(totalmem() / 2 ** 30)} GiB, load average at start ${load.toFixed(2)}`);
  console.log(`* Node ${process.version}, Chromium ${chromiumVersion}, \`make bench-browser ARGS="--rows ${rows} --runs ${runs}"\`; medians of ${runs}`);
  console.log(`* a reader in Node that discards: ${Math.round(warm)} rows/s\n`);
  console.log("| first sync of " + rows + " rows | rows/s (least–greatest) | s | then reading every row, ms | longest UI frame, ms | longest wait for a read as the first tab closes, ms | failed reads |\n|---|---|---|---|---|---|---|");
  for (const m of measured) {
    console.log(`| ${m.client} | ${Math.round(m.rowsPerSecond)} (${Math.round(Math.min(...m.perRun))}–${Math.round(Math.max(...m.perRun))}) | ${(m.milliseconds / 1000).toFixed(2)} | ${m.readAll.toFixed(0)} | ${m.longestFrame.toFixed(0)} | ${m.takeOver.toFixed(0)} | ${m.failedReads} |`);
  }
  console.log("");
  for (const { client, ratio } of ratios) console.log(`${measured[0].client} has ${ratio.toFixed(2)} times the rows/s of ${client}.`);
}

/** Measures all clients. */
async function bench({ rows, runs, millrace }, dir) {
  const load = loadavg()[0];
  let server;
  let pages;
  try {
    pages = await servePages();
    server = await startMillrace({ binary: millrace, rows, dir, signal: interrupt.signal });
    const began = performance.now();
    const found = await readThrough(server, interrupt.signal);
    if (found !== rows) throw new Error(`the server has ${found} rows instead of ${rows}`);
    const warm = rows / ((performance.now() - began) / 1000);
    const results = clients.map(() => []);
    // Turn by turn, each first in its turn, so that what else the machine does meets all of them.
    for (let run = 0; run < runs; run++) {
      for (let turn = 0; turn < clients.length; turn++) {
        const i = (run + turn) % clients.length;
        results[i].push(await measure(clients[i], server, pages, dir, rows));
      }
    }
    const measured = clients.map((c, i) => summary(c, results[i], rows));
    const ratios = measured.slice(1).map((m) => ({ client: m.client, ratio: measured[0].rowsPerSecond / m.rowsPerSecond }));
    const browser = await chromium.launch(quiet());
    const chromiumVersion = browser.version();
    await browser.close();
    return { rows, runs, warm, load, chromiumVersion, measured, ratios };
  } finally {
    pages?.stop();
    await server?.stop();
  }
}

async function main() {
  const flags = readFlags();
  const dir = mkdtempSync(join(tmpdir(), "millrace-bench-browser-"));
  try {
    const report = await bench(flags, dir);
    if (flags.json) console.log(JSON.stringify(report));
    else print(report);
  } finally {
    await remove(dir);
  }
}

/** Removes a folder. A browser's last processes may write into it a little longer. */
async function remove(dir) {
  for (const until = Date.now() + 10_000; ; await sleep(200)) {
    try {
      return rmSync(dir, { recursive: true, force: true });
    } catch (e) {
      if (Date.now() < until) continue;
      console.error(`bench-browser: ${dir} could not be removed: ${e.message}`);
      return;
    }
  }
}

main().catch((e) => {
  // Once interrupted, every failure is a consequence.
  console.error(`bench-browser: ${interrupt.signal.aborted ? interrupt.signal.reason.message : e.message}`);
  process.exitCode ??= 1;
});
