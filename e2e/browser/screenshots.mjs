// Makes the pictures of the README anew: starts a `millrace dev` of its own, does
// what the pictures show, and writes PNG files.
//
//   node e2e/browser/screenshots.mjs [FOLDER, default docs/images]
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "../..");
const folder = resolve(process.argv[2] ?? join(root, "docs/images"));
if (!existsSync(join(here, "node_modules"))) execFileSync("npm", ["ci", "--ignore-scripts"], { cwd: here, stdio: "inherit" });
const { chromium } = await import("playwright-core");
const { launchOptions } = await import("./chromium.mjs");

const scratch = mkdtempSync(join(tmpdir(), "millrace-screenshots-"));
// PostgreSQL runs as another user when this is root.
execFileSync("chmod", ["711", scratch]);
const data = join(scratch, "d");
const server = spawn(join(root, "bin/millrace"), ["dev", "--data", data, "--listen", "127.0.0.1:0"], { stdio: ["ignore", "ignore", "inherit"] });
const ended = new Promise((done) => server.on("exit", done));

/** Waits until something is there. */
async function until(what, ask) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const found = await ask();
    if (found) return found;
    if (Date.now() > deadline || server.exitCode !== null) throw new Error(`${what}: not within a minute`);
    await new Promise((resume) => setTimeout(resume, 100));
  }
}

try {
  const dev = await until("the server", () => existsSync(join(data, "dev.json")) && JSON.parse(readFileSync(join(data, "dev.json"), "utf8")));
  mkdirSync(folder, { recursive: true });
  for (const shot of [
    { name: "demo-light", colorScheme: "light", viewport: { width: 1200, height: 700 } },
    { name: "demo-dark", colorScheme: "dark", viewport: { width: 1160, height: 700 }, drawer: true },
    { name: "demo-phone", colorScheme: "light", viewport: { width: 390, height: 800 }, phone: true },
  ]) {
    const profile = join(scratch, shot.name);
    const context = await chromium.launchPersistentContext(profile, {
      ...launchOptions(),
      colorScheme: shot.colorScheme, viewport: shot.viewport, deviceScaleFactor: 1, hasTouch: shot.phone === true, reducedMotion: "reduce",
    });
    try {
      await take(context, dev, shot);
    } finally {
      await context.close();
    }
  }
} finally {
  server.kill("SIGINT");
  await ended;
  rmSync(scratch, { recursive: true, force: true });
}

async function take(context, dev, shot) {
  const page = context.pages()[0] ?? (await context.newPage());
  await page.goto(dev.url);
  const pane = (user, inside) => page.locator(`.pane[data-user=${user}] ${inside}`);
  const synced = (user) => until(`${user} in sync`, async () => (await pane(user, ".pill").textContent()) === "In sync");
  const add = async (user, title) => {
    await pane(user, ".add-todo input").fill(title);
    await pane(user, ".add-todo input").press("Enter");
    await pane(user, `.todo[aria-label^="${title}"]`).waitFor();
  };
  await synced("alice");
  await synced("bob");
  if (shot.phone) {
    await add("alice", "Return the books");
    await synced("alice");
  } else if (shot.drawer) {
    await pane("alice", ".drawer-button").click();
    await add("alice", "Pick up the parcel");
    await pane("bob", '.todo[aria-label="Pick up the parcel"]').waitFor();
    await synced("alice");
    await pane("alice", ".buckets").waitFor();
  } else {
    await add("alice", "Buy flowers for Saturday");
    await pane("bob", '.todo[aria-label="Buy flowers for Saturday"]').waitFor();
    await synced("alice");
    await pane("alice", ".share").click();
    await pane("alice", ".chip").first().waitFor();
    await pane("bob", ".switch").click();
    await add("bob", "Ask about the neighbours’ cat");
    await pane("bob", '.todo[aria-label="Fix the bike"] .box').click();
    await pane("bob", ".pending").waitFor();
  }
  await page.evaluate(() => document.activeElement instanceof HTMLElement && document.activeElement.blur());
  await page.mouse.move(0, 0);
  await page.waitForTimeout(300); // the last transition
  const path = join(folder, `${shot.name}.png`);
  await page.screenshot({ path });
  const kib = Math.ceil(statSync(path).size / 1024);
  console.log(`${path} ${kib} KiB`);
  if (kib > 150) throw new Error(`${path} has more than 150 KiB`);
}
