/**
 * A headless Chromium with a profile on disk (one off the record has another,
 * slower storage), a page served locally, and a real relay.
 */
import { execFileSync, spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import type { BrowserContext, Page } from "playwright-core";

const root = fileURLToPath(new URL("../..", import.meta.url));

const types: Record<string, string> = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };

async function serveFiles(): Promise<Server> {
  const server = createServer((req, res) => {
    const path = normalize(new URL(req.url ?? "/", "http://x").pathname);
    const file = path === "/page.html" ? join(root, "test/browser/page.html") : join(root, path);
    if (!file.startsWith(root) || !existsSync(file)) return void res.writeHead(404).end();
    res.writeHead(200, { "content-type": types[extname(file)] ?? "text/plain", "cache-control": "no-store" }).end(readFileSync(file));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return server;
}

const browsers = [process.env.MILLRACE_CHROMIUM, "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

function browserPath(): string {
  const found = browsers.find((p) => p !== undefined && existsSync(p));
  if (found === undefined) throw new Error("no Chromium found: install it (apt-get install chromium), or name it in MILLRACE_CHROMIUM");
  return found;
}

/** One step of a commit on the server. */
export interface Change {
  readonly do: "put" | "rows" | "remove" | "grant" | "revoke";
  readonly definition?: string;
  readonly key?: string;
  readonly table?: string;
  readonly id?: string;
  readonly data?: string;
  readonly sub?: string;
  readonly list?: string;
  readonly rows?: number;
}

export class Harness {
  readonly errors: string[] = [];

  private constructor(
    readonly context: BrowserContext,
    private readonly files: Server,
    private readonly relay: ChildProcess,
    readonly server: string,
    private readonly temp: string,
  ) {}

  static async start(): Promise<Harness> {
    const temp = mkdtempSync(join(tmpdir(), "millrace-browser-"));
    const binary = join(temp, "relay.test");
    execFileSync("go", ["test", "-c", "-o", binary, "./test/relay"], { cwd: root, stdio: "inherit" });
    const relay = spawn(binary, ["-test.run", "TestServe", "-test.timeout", "0"], { env: { ...process.env, MILLRACE_SERVE: "1" }, stdio: ["pipe", "pipe", "inherit"] });
    const server = await new Promise<string>((resolve, reject) => {
      relay.stdout?.once("data", (b: Buffer) => resolve(b.toString().trim().split("\n")[0] ?? ""));
      relay.once("exit", (code) => reject(new Error(`the relay ended with ${code}`)));
    });
    const files = await serveFiles();
    const context = await chromium.launchPersistentContext(join(temp, "profile"), {
      executablePath: browserPath(), headless: true,
      args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    });
    return new Harness(context, files, relay, server, temp);
  }

  async stop(): Promise<void> {
    await this.context.close();
    this.relay.stdin?.end();
    await new Promise((resolve) => this.relay.once("exit", resolve));
    this.files.close();
    rmSync(this.temp, { recursive: true, force: true });
  }

  url(query: Record<string, string>): string {
    const { port } = this.files.address() as AddressInfo;
    return `http://127.0.0.1:${port}/page.html?${new URLSearchParams({ server: this.server, ...query })}`;
  }

  /** Opens a page; its database is open when this resolves. */
  async page(query: Record<string, string> = {}): Promise<Page> {
    const page = await this.context.newPage();
    page.on("pageerror", (e) => this.errors.push(String(e)));
    page.on("console", (m) => {
      if (m.type() === "error" || m.type() === "warning") this.errors.push(m.text());
    });
    await page.goto(this.url(query));
    await page.waitForFunction("window.loaded");
    await page.evaluate("window.loaded");
    return page;
  }

  async commit(...changes: Change[]): Promise<void> {
    await this.post("/commit", changes);
  }

  async post(path: string, body: unknown): Promise<void> {
    const res = await fetch(this.server + path, { method: "POST", body: JSON.stringify(body) });
    if (!res.ok) throw new Error(`${path}: ${res.status} ${await res.text()}`);
  }

  /** What was uploaded. */
  async uploaded(): Promise<{ rows: Record<string, Record<string, unknown>>; transactions: Record<string, number> }> {
    return (await (await fetch(this.server + "/rows")).json()) as { rows: Record<string, Record<string, unknown>>; transactions: Record<string, number> };
  }
}

/** Bounds what is waited for: so long that only what hangs is caught. Milliseconds. */
export const PATIENCE = 60_000;

/** Polls a page until an expression, or what it promises, holds. */
export async function eventually(page: Page, expression: string): Promise<void> {
  const until = Date.now() + PATIENCE;
  while (!(await page.evaluate(`(async () => Boolean(await (${expression})))()`))) {
    if (Date.now() > until) throw new Error(`never true: ${expression}; status ${JSON.stringify(await page.evaluate("syncStatus()"))}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}
