import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Owner } from "../src/owner/owner.js";
import type { Connection } from "../src/sqlite/connection.js";
import { pageSchema, TestPage } from "./support/pages.js";
import { memory } from "./support/sqlite.js";

let db: Connection;
let owner: Owner;
let first: TestPage;
let second: TestPage;
beforeEach(async () => {
  db = await memory();
  owner = new Owner(db, true);
  first = await new TestPage(owner).hello();
  second = await new TestPage(owner).hello();
});
afterEach(async () => {
  vi.useRealTimers();
  await owner.close();
});

const until = (condition: () => void): Promise<void> => vi.waitFor(condition, { timeout: 60_000, interval: 5 });
const todos = "SELECT id FROM todos ORDER BY id";
const insert = (id: string): string => `INSERT INTO todos (id) VALUES ('${id}')`;

describe("writes", () => {
  it("are seen by every page, which is told of the tables and the queue", async () => {
    await first.write(insert("a"));
    expect(await second.rows(todos)).toEqual([["a"]]);
    await until(() => expect(second.events).toContainEqual({ type: "changes", types: ["todos"] }));
    await until(() => expect(second.status?.pendingUploads).toBe(1));
    await first.write("INSERT INTO drafts (id, body) VALUES ('d', 'x')");
    await until(() => expect(second.events).toContainEqual({ type: "changes", types: ["drafts"] }));
  });

  it("with the same key are done once (T3)", async () => {
    await first.write(insert("a"), "key");
    await second.write(insert("a"), "key");
    expect(await first.rows(todos)).toEqual([["a"]]);
    expect(await first.peer.call("uploadQueue", [10])).toHaveLength(1);
    expect(await first.peer.call("wasDone", ["key"])).toBe(true);
    expect(await first.peer.call("wasDone", ["another"])).toBe(false);
  });

  it("of several statements are one transaction, or none", async () => {
    await first.peer.call("execute", ["k1", [{ sql: insert("a"), params: [] }, { sql: insert("b"), params: [] }]]);
    await expect(first.peer.call("execute", ["k2", [{ sql: insert("c"), params: [] }, { sql: insert("a"), params: [] }]])).rejects.toMatchObject({ name: "MillraceQueryError" });
    expect(await first.rows(todos)).toEqual([["a"], ["b"]]);
    const queue = await first.peer.call("uploadQueue", [10]);
    expect(new Set(queue.map((e) => e.transaction)).size).toBe(1);
    expect(await first.peer.call("wasDone", ["k2"])).toBe(false);
  });

  it("cannot be made by a query", async () => {
    await expect(first.rows(insert("a"))).rejects.toThrow("this statement writes");
    expect(await first.rows(todos)).toEqual([]);
  });
});

describe("interactive transactions", () => {
  it("see what they wrote; others wait and see it when it is committed", async () => {
    const tx = await first.peer.call("begin", []);
    await first.peer.call("statement", [tx, insert("a"), []]);
    const read = await first.peer.call("statement", [tx, todos, []]);
    expect(read.values).toEqual([["a"]]);
    let seen: unknown;
    const waiting = second.rows(todos).then((r) => (seen = r));
    await first.peer.call("statement", [tx, insert("b"), []]);
    expect(seen).toBeUndefined();
    await first.peer.call("commit", [tx, "k"]);
    await waiting;
    expect(seen).toEqual([["a"], ["b"]]);
    expect(await second.peer.call("wasDone", ["k"])).toBe(true); // (T4)
  });

  it("leave nothing when rolled back, and the queue neither", async () => {
    const tx = await first.peer.call("begin", []);
    await first.peer.call("statement", [tx, insert("a"), []]);
    await first.peer.call("rollback", [tx]);
    expect(await second.rows(todos)).toEqual([]);
    expect(await second.peer.call("nextTransaction", [])).toBeNull();
  });

  it("of a page that is gone are rolled back (T6)", async () => {
    const tx = await first.peer.call("begin", []);
    await first.peer.call("statement", [tx, insert("a"), []]);
    first.vanish();
    expect(await second.rows(todos)).toEqual([]);
    await second.write(insert("b"));
    expect(await second.rows(todos)).toEqual([["b"]]);
  });

  it("that say nothing for 10 s are rolled back (T7)", async () => {
    vi.useFakeTimers();
    const soon = async <T>(p: Promise<T>): Promise<T> => {
      const settled = p.finally(() => {});
      settled.catch(() => {});
      await vi.advanceTimersByTimeAsync(20);
      return settled;
    };
    const tx = await soon(first.peer.call("begin", []));
    await soon(first.peer.call("statement", [tx, insert("a"), []]));
    await vi.advanceTimersByTimeAsync(9_000);
    await soon(first.peer.call("statement", [tx, insert("b"), []]));
    await vi.advanceTimersByTimeAsync(10_100);
    await expect(soon(first.peer.call("statement", [tx, insert("c"), []]))).rejects.toMatchObject({ name: "MillraceTransactionLostError", retryable: true });
    expect(await soon(second.rows(todos))).toEqual([]);
  });

  it("cannot end themselves by a statement", async () => {
    const tx = await first.peer.call("begin", []);
    await expect(first.peer.call("statement", [tx, "COMMIT", []])).rejects.toThrow("transactions are begun and ended");
    await expect(first.peer.call("commit", [tx, "k"])).rejects.toMatchObject({ name: "MillraceTransactionLostError" });
    expect(await second.rows("SELECT 1")).toEqual([[1]]);
  });
});

describe("subscriptions", () => {
  const key = { name: "project", params: '{"id":"p"}' };
  const expiries = (): unknown => db.all("SELECT priority, ttl, expires IS NULL FROM mr_streams");

  it("are held by pages together; the most urgent priority counts", async () => {
    const v1 = await first.peer.call("subscribe", [key, 2, 1000]);
    const v2 = await second.peer.call("subscribe", [key, 1, 5000]);
    expect(v2).toBe(v1 + 1);
    expect(await first.peer.call("subscribe", [key, 3, 1000])).toBe(v2);
    expect(expiries()).toEqual([[1, 5000, 1]]);
    await first.peer.call("unsubscribe", [key]);
    expect(expiries()).toEqual([[1, 5000, 1]]);
    await second.peer.call("unsubscribe", [key]);
    expect(expiries()).toEqual([[1, 5000, 0]]);
  });

  it("of a page that is gone begin to expire (T6)", async () => {
    await first.peer.call("subscribe", [key, null, 1000]);
    first.vanish();
    await until(() => expect(expiries()).toEqual([[-1, 1000, 0]]));
  });
});

it("clears everything but local-only rows and the device's name", async () => {
  const { clientId } = await first.peer.call("hello", ["tab", pageSchema, { streams: [], connect: null }]);
  await first.write(insert("a"));
  await first.write("INSERT INTO drafts (id, body) VALUES ('d', 'kept')");
  await first.peer.call("clear", [true]);
  expect(await first.rows("SELECT (SELECT count(*) FROM todos), (SELECT count(*) FROM drafts), (SELECT count(*) FROM mr_queue)")).toEqual([[0, 1, 0]]);
  await first.peer.call("clear", [false]);
  expect(await first.rows("SELECT count(*) FROM drafts")).toEqual([[0]]);
  expect((await first.peer.call("diagnostics", [])).clientId).toBe(clientId);
});

it("tells a page of another version what it cannot do", async () => {
  await expect(first.peer.call("nothing" as "disconnect", [])).rejects.toThrow("different versions of the app");
});
