/** A page and its way to the owner. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Owner } from "../src/owner/owner.js";
import type { Channel } from "../src/rpc.js";
import { fakeBrowser } from "./support/browser.js";
import { TestPage } from "./support/pages.js";
import { fakeSockets, FakeSocket, socket } from "./support/socket.js";
import { memory } from "./support/sqlite.js";

let owner: Owner;
beforeEach(async () => {
  owner = new Owner(await memory(), true);
});
afterEach(() => owner.close());

const until = (condition: () => void | Promise<void>): Promise<void> => vi.waitFor(condition, { timeout: 60_000, interval: 5 });
const credentials = { endpoint: "http://server.test", token: "t" };
const nothingSynced = [{ checkpoint: { last_op_id: "1", buckets: [], streams: [] } }, { checkpoint_complete: { last_op_id: "1" } }];

/** Calls with each answer the owner gives a page, before and after it is on its way. */
const onAnswer = (before: () => void, after: () => void) => (c: Channel): Channel => ({
  post: (m) => {
    const answer = (m as { m?: string }).m === "return";
    if (answer) before();
    c.post(m);
    if (answer) after();
  },
  set onmessage(fn: (m: unknown) => void) {
    c.onmessage = fn;
  },
  close: () => c.close(),
});

it.each(["before", "after"])("what happens just %s a page's greeting is answered is in its status", async (when) => {
  fakeSockets();
  const browser = fakeBrowser();
  const first = await new TestPage(owner).hello();
  await first.connect({ retryMin: 1 });
  const s = await socket(0);
  const sync = (): void => s.says(...nothingSynced);
  browser.host(owner, when === "before" ? onAnswer(sync, () => {}) : onAnswer(() => {}, sync));
  const page = browser.page();
  await page.connect({ fetchCredentials: async () => credentials, uploadData: async () => {} }, { retryMin: 1 });
  await until(() => expect(first.status).toMatchObject({ connected: true, hasSynced: true }));
  await until(() => expect(page.status).toMatchObject({ connected: true, connecting: false, hasSynced: true, checkpoint: 1n }));
});

it("connect right after the page was made asks once for credentials, and nothing is broken off", async () => {
  fakeSockets();
  const browser = fakeBrowser();
  browser.host(owner);
  const page = browser.page();
  const signals: AbortSignal[] = [];
  const fetchCredentials = async (signal: AbortSignal): Promise<typeof credentials> => {
    signals.push(signal);
    return credentials;
  };
  await page.connect({ fetchCredentials, uploadData: async () => {} }, { retryMin: 1 });
  (await socket(0)).says(...nothingSynced);
  await until(() => expect(page.status.hasSynced).toBe(true));
  expect(signals.map((s) => s.aborted)).toEqual([false]);
  expect(FakeSocket.all).toHaveLength(1);
});

it("a page that the owner takes for gone comes back by itself, with its subscriptions and its connection", async () => {
  fakeSockets();
  const browser = fakeBrowser();
  const { leave, reached } = browser.host(owner);
  const page = browser.page();
  await page.connect({ fetchCredentials: async () => credentials, uploadData: async () => {} }, { retryMin: 1 });
  const sub = await page.subscribe("project", { id: "p" });
  (await socket(0)).says(...nothingSynced);
  await until(() => expect(page.status.hasSynced).toBe(true));
  leave();
  await until(() => expect(reached()).toBe(2));
  expect(await page.getAll("SELECT 1 AS one")).toEqual([{ one: 1 }]);
  const again = await socket(1);
  again.says({ checkpoint: { last_op_id: "2", buckets: [], streams: [] } }, { checkpoint_complete: { last_op_id: "2" } });
  await until(() => expect(page.status).toMatchObject({ connected: true, checkpoint: 2n }));
  await sub.waitForFirstSync(AbortSignal.timeout(60_000));
});

it("a page talks to nobody before it holds its own lock: an owner would take it for gone", async () => {
  const browser = fakeBrowser();
  let open: () => void = () => {};
  browser.locks.open = new Promise((resolve) => (open = resolve));
  const announced = new Promise<void>((resolve) => {
    const room = new BroadcastChannel("millrace:test");
    room.onmessage = (e: MessageEvent<{ type: string }>) => {
      if (e.data.type !== "owner") return;
      room.close();
      resolve();
    };
  });
  const { reached } = browser.host(owner);
  const page = browser.page();
  await announced;
  await new Promise((resolve) => setImmediate(resolve));
  expect(reached()).toBe(0);
  open();
  await page.ready();
  expect(reached()).toBe(1);
});

it("after a disconnect no page brings the connection back by greeting a new owner", async () => {
  fakeSockets();
  const first = await new TestPage(owner).hello();
  await first.connect({ retryMin: 1 });
  await first.peer.call("disconnect", []);
  const late = await new TestPage(owner).hello({ retryMin: 1 }); // it was connected before the owner changed
  await until(() => expect(late.events).toContainEqual(expect.objectContaining({ type: "status", wanted: false })));
  await late.connect({ retryMin: 1 });
  await until(() => expect(late.status?.connecting).toBe(true));
});
