import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually, Harness } from "./harness.js";
import { add, atRest, titles, todo } from "./pages.js";

let h: Harness;
beforeAll(async () => {
  h = await Harness.start();
});
afterAll(async () => {
  await h.stop();
});

describe("one page", () => {
  it("shows the server's rows, and its own writes at once and after their way round (S4)", async () => {
    await h.commit({ do: "put", definition: "mine", key: "ann", table: "todos", id: "s1", data: todo("s1", "Milk") });
    const page = await h.page({ db: "round", user: "ann" });
    await eventually(page, atRest);
    expect(await titles(page)).toEqual(["Milk"]);
    await add(page, "l1", "Bread");
    expect(await titles(page)).toEqual(["Bread", "Milk"]);
    await eventually(page, atRest);
    expect((await h.uploaded()).rows["ann todos l1"]).toEqual({ id: "l1", title: "Bread", done: 0 });
    expect(await titles(page)).toEqual(["Bread", "Milk"]);
    expect(await page.evaluate("syncStatus().persistent")).toBe(true);
    await page.close();
  });

  it("follows the server with a live query", async () => {
    const page = await h.page({ db: "live", user: "lea" });
    await eventually(page, atRest);
    await page.evaluate(`(() => { window.seen = []; window.undo = db.watch("SELECT title FROM todos ORDER BY title").subscribe((rows) => seen.push(rows.map((r) => r.title).join())); })()`);
    await eventually(page, "seen.length === 1");
    await h.commit({ do: "put", definition: "mine", key: "lea", table: "todos", id: "a", data: todo("a", "Apples") });
    await eventually(page, `seen.at(-1) === "Apples"`);
    // A change of another table runs the queries of that one only: once they have run, so would the first have.
    await page.evaluate(`(() => { window.drafts = []; db.watch("SELECT body FROM drafts").subscribe((rows) => drafts.push(rows.length)); })()`);
    await eventually(page, "drafts.length === 1");
    await page.evaluate(`db.execute("INSERT INTO drafts (id, body) VALUES ('d', 'nothing to do with it')")`);
    await eventually(page, "drafts.at(-1) === 1");
    await page.evaluate("db.get('SELECT 1')");
    expect(await page.evaluate<string[]>("seen")).toEqual(["", "Apples"]);
    await page.evaluate("undo()");
    await page.close();
  });

  it("keeps offline edits over a reload, and uploads them once (D5, S7)", async () => {
    const page = await h.page({ db: "offline", user: "olga" });
    await eventually(page, atRest);
    await page.evaluate("db.disconnect()");
    await eventually(page, "!syncStatus().connected");
    await add(page, "o1", "Written offline");
    await page.evaluate(`db.transaction(async (tx) => {
      await tx.execute("UPDATE todos SET done = 1 WHERE id = 'o1'");
      const row = await tx.get("SELECT done FROM todos WHERE id = 'o1'");
      await tx.execute("INSERT INTO todos (id, title) VALUES ('o2', 'done was ' || ?)", [row.done]);
    })`);
    await page.goto(page.url() + "&connect=no");
    await page.waitForFunction("window.loaded");
    await page.evaluate("window.loaded");
    expect(await titles(page)).toEqual(["Written offline", "done was 1"]);
    expect(await page.evaluate("syncStatus().pendingUploads")).toBe(3);
    await page.evaluate("connect()");
    await eventually(page, atRest);
    const { rows, transactions } = await h.uploaded();
    expect(rows["olga todos o1"]).toEqual({ id: "o1", title: "Written offline", done: 1 });
    const client = await page.evaluate<string>("db.clientId()");
    expect(Object.entries(transactions).filter(([k]) => k.startsWith(client))).toEqual([[client + "/1", 1], [client + "/2", 1]]);
    await page.close();
  });

  it("loses the rows of a list that is no longer shared, and keeps the others (S6)", async () => {
    await h.commit(
      { do: "grant", sub: "uma", list: "l1" }, { do: "grant", sub: "uma", list: "l2" },
      { do: "put", definition: "list", key: "l1", table: "todos", id: "x1", data: todo("x1", "One") },
      { do: "put", definition: "list", key: "l2", table: "todos", id: "x2", data: todo("x2", "Two") },
    );
    const page = await h.page({ db: "share", user: "uma" });
    await eventually(page, atRest);
    expect(await titles(page)).toEqual(["One", "Two"]);
    await h.commit({ do: "revoke", sub: "uma", list: "l1" });
    await eventually(page, "db.getAll('SELECT id FROM todos').then((r) => r.length === 1)");
    expect(await titles(page)).toEqual(["Two"]);
    await page.close();
  });

  it("subscribes to a stream, waits for it, and lets it go (D6)", async () => {
    await h.commit({ do: "put", definition: "project", key: "p9", table: "todos", id: "p1", data: todo("p1", "Of project nine") });
    const page = await h.page({ db: "streams", user: "sam" });
    await eventually(page, atRest);
    expect(await titles(page)).toEqual([]);
    await page.evaluate(`db.subscribe("project", { id: "p9" }, { ttl: 0 }).then(async (s) => { window.sub = s; await s.waitForFirstSync(); })`);
    expect(await titles(page)).toEqual(["Of project nine"]);
    await page.evaluate("sub.unsubscribe()");
    await eventually(page, "db.getAll('SELECT id FROM todos').then((r) => r.length === 0)");
    await page.close();
  });

  it("recovers when the server goes away in the middle of a download and of an upload (S7)", async () => {
    await h.commit({ do: "rows", definition: "mine", key: "max", table: "todos", id: "r%05d", data: '{"title":"row %05d","done":0}', rows: 30_000 });
    const page = await h.page({ db: "restarts", user: "max", connect: "no" });
    // The page itself sees the moment: asked from here it may be over already.
    await page.evaluate(`(() => {
      const url = new URLSearchParams(location.search).get("server") + "/restart";
      window.restarted = new Promise((resolve) => {
        const undo = db.onStatus((s) => {
          if ((s.downloadProgress?.downloaded ?? 0) <= 2000) return;
          undo();
          resolve(fetch(url, { method: "POST", body: "null" }).then((r) => r.ok));
        });
      });
    })()`);
    await page.evaluate("connect()");
    expect(await page.evaluate("restarted")).toBe(true);
    await h.post("/fail", "the backend is away");
    await add(page, "up", "uploaded late");
    await eventually(page, "syncStatus().uploadError !== null");
    expect(await page.evaluate("db.uploadQueue().then((q) => q[0].attempts > 0 && /503/.test(q[0].lastError))")).toBe(true);
    await h.post("/restart", null);
    await h.post("/fail", "");
    await eventually(page, atRest);
    expect(await page.evaluate("db.get('SELECT count(*) n, sum(title LIKE ?) m FROM todos', ['row %']).then((r) => [r.n, r.m].join())")).toBe("30001,30000");
    // The log was allowed to grow meanwhile: it is no longer.
    expect(await page.evaluate("db.get('PRAGMA wal_autocheckpoint').then((r) => Object.values(r)[0])")).toBe(2000);
    expect((await h.uploaded()).rows["max todos up"]).toEqual({ id: "up", title: "uploaded late", done: 0 });
    await page.close();
  });

  it("syncs over HTTP where no WebSocket gets through (D9)", async () => {
    await h.commit(
      { do: "put", definition: "mine", key: "hal", table: "todos", id: "h1", data: todo("h1", "Milk") },
      { do: "put", definition: "project", key: "p7", table: "todos", id: "p1", data: todo("p1", "Of project seven") },
    );
    await h.post("/block", true);
    try {
      const page = await h.page({ db: "http", user: "hal" });
      await eventually(page, atRest);
      expect(await titles(page)).toEqual(["Milk"]);
      await add(page, "l1", "Bread");
      await eventually(page, atRest);
      expect((await h.uploaded()).rows["hal todos l1"]).toEqual({ id: "l1", title: "Bread", done: 0 });
      await page.evaluate(`db.subscribe("project", { id: "p7" }).then((s) => s.waitForFirstSync())`);
      expect(await titles(page)).toEqual(["Bread", "Milk", "Of project seven"]);
      await h.post("/restart", null);
      await h.commit({ do: "put", definition: "mine", key: "hal", table: "todos", id: "h2", data: todo("h2", "After the restart") });
      await eventually(page, "db.get(\"SELECT 1 FROM todos WHERE title = 'After the restart'\")");
      await page.close();
    } finally {
      await h.post("/block", false);
    }
  });

  it("clears everything when a user logs out", async () => {
    await h.commit({ do: "put", definition: "mine", key: "zoe", table: "todos", id: "z", data: todo("z", "Zoe's") });
    const page = await h.page({ db: "logout", user: "zoe" });
    await eventually(page, atRest);
    await page.evaluate(`db.execute("INSERT INTO drafts (id, body) VALUES ('d', 'kept')")`);
    await page.evaluate("db.disconnectAndClear({ keepLocal: true })");
    expect(await titles(page)).toEqual([]);
    expect(await page.evaluate("db.get('SELECT count(*) n FROM drafts').then((r) => r.n)")).toBe(1);
    expect(await page.evaluate("syncStatus().hasSynced")).toBe(false);
    await page.evaluate("connect()");
    await eventually(page, atRest);
    expect(await titles(page)).toEqual(["Zoe's"]);
    await page.close();
  });
});
