// Chromium under remote control: it does what the lines on standard input say
// and answers each with a line on standard output, so that the test decides what
// must be true. What the pages say goes to standard error.
//
//   {"id": 1, "do": "open", "page": "a", "url": "…"}                    a tab
//   {"id": 2, "do": "texts", "page": "a", "at": "CSS"}                 of all elements there
//   {"id": 3, "do": "click", "page": "a", "at": "CSS"}                 also "fill" (text), "press" (text: a key)
//   {"id": 4, "do": "eval", "page": "a", "text": "JavaScript"}         an expression, a promise too
//   {"id": 5, "do": "reload", "page": "a"}                             also "close", "crash"
//   {"id": 6, "do": "uploads"}                                         what the pages sent to /demo/upload so far
//   {"id": 7, "do": "screenshot", "page": "a", "text": "file.png"}
//
// An answer is {"id": 1, "value": …} or {"id": 1, "error": "…"}. All pages share
// one profile, in the folder named by the first argument: it is a persistent one,
// since off-the-record pages get other, slower storage.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import { launchOptions } from "./chromium.mjs";

/** Longest wait for an element, or for a page to load. Milliseconds. */
const TIMEOUT = 20_000;

const context = await chromium.launchPersistentContext(process.argv[2], { ...launchOptions(), viewport: { width: 1280, height: 800 } });
context.setDefaultTimeout(TIMEOUT);
const pages = new Map();
const uploads = [];

function watch(name, page) {
  page.on("console", (m) => m.type() === "debug" || console.error(`${name}: ${m.type()}: ${m.text()}`));
  page.on("pageerror", (e) => console.error(`${name}: uncaught: ${e.message}`));
}

context.on("response", (response) => {
  const request = response.request();
  if (!request.url().endsWith("/demo/upload") || request.method() !== "POST") return;
  const body = request.postDataJSON();
  uploads.push({ client: body.client_id, ids: body.transactions.map((t) => t.id), status: response.status() });
});

const at = (c) => pages.get(c.page).locator(c.at);

const actions = {
  async open(c) {
    const page = await context.newPage();
    pages.set(c.page, page);
    watch(c.page, page);
    await page.goto(c.url);
  },
  texts: (c) => at(c).allTextContents(),
  click: (c) => at(c).click(),
  fill: (c) => at(c).fill(c.text),
  press: (c) => (c.at ? at(c).press(c.text) : pages.get(c.page).keyboard.press(c.text)),
  eval: (c) => pages.get(c.page).evaluate(c.text),
  reload: (c) => pages.get(c.page).reload(),
  close: (c) => pages.get(c.page).close(),
  async crash(c) {
    const page = pages.get(c.page);
    const session = await context.newCDPSession(page);
    const gone = new Promise((resolve) => page.once("crash", resolve));
    session.send("Page.crash").catch(() => {}); // nobody is left to answer
    await gone;
  },
  uploads: () => uploads,
  screenshot: (c) => pages.get(c.page).screenshot({ path: c.text }).then(() => undefined),
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    const action = actions[command.do];
    if (action === undefined) throw new Error(`there is no action ${command.do}`);
    answer = { id: command.id, value: (await action(command)) ?? null };
  } catch (error) {
    answer = { id: command.id, error: String(error?.stack ?? error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
await context.close();
