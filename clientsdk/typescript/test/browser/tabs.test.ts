import type { Page } from "playwright-core";
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

/** Kills the renderer of a page, as a crash does. */
async function crash(page: Page): Promise<void> {
  const cdp = await h.context.newCDPSession(page);
  const crashed = new Promise<void>((resolve) => page.on("crash", () => resolve()));
  cdp.send("Page.crash").catch(() => {}); // there is nobody left to answer
  await crashed;
}

/** A loop of writes in a page; each acknowledged one is counted in `acknowledged`. */
const writeLoop = (prefix: string): string => `(() => {
  window.acknowledged = []; window.failed = [];
  (async () => {
    for (let i = 0; !window.stopWriting; i++) {
      const id = "${prefix}" + i;
      try {
        await db.execute("INSERT INTO todos (id, title, done) VALUES (?, ?, 0)", [id, id]);
        acknowledged.push(id);
      } catch (e) { failed.push(String(e)); }
    }
    window.stopped = true;
  })();
})()`;

describe.each([{ way: "the broker", query: {} as Record<string, string> }, { way: "a BroadcastChannel", query: { broker: "none" } as Record<string, string> }])("two pages, over $way", ({ way, query }) => {
  const db = way.replaceAll(" ", "-");

  it("share one database (T1)", async () => {
    const user = "t1-" + db;
    const first = await h.page({ db: user, user, ...query });
    const second = await h.page({ db: user, user, ...query });
    expect([await first.evaluate("db.isOwner"), await second.evaluate("db.isOwner")]).toEqual([true, false]);
    await eventually(second, atRest);
    await second.evaluate(`(() => { window.seen = []; db.watch("SELECT title FROM todos ORDER BY title").subscribe((rows) => seen.push(rows.map((r) => r.title).join())); })()`);
    await add(first, "a", "from the first");
    await eventually(second, `seen.at(-1) === "from the first"`);
    await add(second, "b", "from the second");
    expect(await titles(first)).toEqual(["from the first", "from the second"]);
    await h.commit({ do: "put", definition: "mine", key: user, table: "todos", id: "c", data: todo("c", "from the server") });
    await eventually(second, `seen.at(-1) === "from the first,from the second,from the server"`);
    expect(await first.evaluate("db.clientId()")).toBe(await second.evaluate("db.clientId()"));
    await first.close();
    await second.close();
  });

  it.each(["closed", "crashed"])("one takes over when the other's owner is %s: nothing acknowledged is lost, nothing is done twice (T2, T3, T5)", async (how) => {
    const user = `t2-${db}-${how}`;
    const owner = await h.page({ db: user, user, ...query });
    const other = await h.page({ db: user, user, ...query });
    await eventually(other, atRest);
    await other.evaluate(`(() => { window.counts = []; db.watch("SELECT count(*) AS n FROM todos").subscribe((rows) => counts.push(rows[0].n)); })()`);
    // Both write; the one that stays never sees an error.
    await other.evaluate(writeLoop("stay"));
    await owner.evaluate(writeLoop("gone"));
    await eventually(other, "acknowledged.length > 30");
    const before = await owner.evaluate<string[]>("acknowledged");
    const began = Date.now();
    if (how === "closed") await owner.close();
    else await crash(owner);
    await eventually(other, "db.isOwner");
    await other.evaluate("db.get('SELECT 1')");
    const took = Date.now() - began;
    const have = await other.evaluate<number>("acknowledged.length");
    await eventually(other, `acknowledged.length > ${have} + 20`);
    await other.evaluate("window.stopWriting = true");
    await eventually(other, "window.stopped");
    const [acknowledged, failed, ids] = await other.evaluate<[string[], string[], string[]]>("db.getAll('SELECT id FROM todos').then((r) => [acknowledged, failed, r.map((x) => x.id)])");
    expect(failed).toEqual([]);
    for (const id of [...before, ...acknowledged]) expect(ids).toContain(id);
    expect(new Set(ids).size).toBe(ids.length);
    // The connection goes on by itself, and everything reaches the server once.
    await eventually(other, atRest);
    const { rows, transactions } = await h.uploaded();
    expect(Object.keys(rows).filter((k) => k.startsWith(user + " ")).length).toBe(ids.length);
    const client = await other.evaluate<string>("db.clientId()");
    expect(Object.entries(transactions).filter(([k, n]) => k.startsWith(client) && n > 2)).toEqual([]);
    await eventually(other, `counts.at(-1) === ${ids.length}`);
    console.log(`take-over after the owner was ${how}, over ${way}: ${took} ms to the first read`);
    await other.close();
    if (how === "crashed") await owner.close();
  });
});

describe("an owner that is still there", () => {
  it.each(["closes its database", "gives way because it is hidden"])("%s: the other page takes over, and the connection goes on (T5)", async (how) => {
    const user = "polite-" + how.split(" ")[0];
    const owner = await h.page({ db: user, user });
    const other = await h.page({ db: user, user });
    await eventually(other, atRest);
    await other.evaluate(writeLoop("w"));
    await eventually(other, "acknowledged.length > 10");
    const yields = how.startsWith("gives");
    await owner.evaluate(yields ? "workers[0].postMessage({ type: 'yield' })" : "db.close()");
    await eventually(other, "db.isOwner");
    await eventually(other, "acknowledged.length > 40");
    await other.evaluate("window.stopWriting = true");
    await eventually(other, "window.stopped");
    await eventually(other, atRest);
    expect(await other.evaluate("failed")).toEqual([]);
    const n = await other.evaluate<number>("db.get('SELECT count(*) AS n FROM todos').then((r) => r.n)");
    expect(n).toBe(await other.evaluate("acknowledged.length"));
    await h.commit({ do: "put", definition: "mine", key: user, table: "todos", id: "s", data: todo("s", "from the server") });
    await eventually(other, "db.getAll('SELECT * FROM todos').then((r) => r.some((x) => x.title === 'from the server'))");
    if (yields) {
      // It goes on as any other page, and has the database again when the other goes.
      expect(await owner.evaluate("db.get('SELECT count(*) AS n FROM todos').then((r) => r.n)")).toBe(n + 1);
      expect(await owner.evaluate("db.isOwner")).toBe(false);
      await other.close();
      await eventually(owner, "db.isOwner");
      await add(owner, "back", "owner again");
      await eventually(owner, atRest);
      expect((await h.uploaded()).rows[user + " todos back"]).toEqual({ id: "back", title: "owner again", done: 0 });
    } else {
      await expect(owner.evaluate("db.getAll('SELECT 1')")).rejects.toThrow("MillraceClosedError");
      await other.close();
    }
    await owner.close();
  });

  it("keeps the database to itself if nobody waits for it", async () => {
    const page = await h.page({ db: "alone", user: "alone" });
    await page.evaluate("workers[0].postMessage({ type: 'yield' })");
    await add(page, "a", "still here");
    expect(await page.evaluate("db.isOwner")).toBe(true);
    expect(await titles(page)).toEqual(["still here"]);
    await page.close();
  });
});

describe("files", () => {
  it("can be deleted once no page has them open", async () => {
    const page = await h.page({ db: "gone", user: "gone", connect: "no" });
    await add(page, "a", "deleted");
    await expect(page.evaluate("Millrace.delete('gone')")).rejects.toThrow("MillraceOpenError");
    await page.evaluate("db.close().then(() => Millrace.delete('gone')).then(() => Millrace.delete('never was'))");
    await page.close();
    const again = await h.page({ db: "gone", user: "gone", connect: "no" });
    expect(await titles(again)).toEqual([]);
    await again.close();
  });

  it("are there after every page was closed, and a third page opens them (T8)", async () => {
    const first = await h.page({ db: "t8", user: "t8", connect: "no" });
    await add(first, "a", "kept");
    await first.close();
    const second = await h.page({ db: "t8", user: "t8", connect: "no" });
    expect(await titles(second)).toEqual(["kept"]);
    // close() leaves the lock to the next at once.
    await second.evaluate("db.close()");
    const third = await h.page({ db: "t8", user: "t8", connect: "no" });
    expect(await third.evaluate("db.isOwner")).toBe(true);
    expect(await titles(third)).toEqual(["kept"]);
    await second.close();
    await third.close();
  });

  it("are in memory where the browser gives none, and the status says so (T9)", async () => {
    const page = await h.context.newPage();
    await page.addInitScript(() => {
      // The worker is made with a file system that refuses.
      const Real = Worker;
      (window as unknown as { Worker: unknown }).Worker = class extends Real {
        constructor(url: string | URL, options?: WorkerOptions) {
          const source = `navigator.storage.getDirectory = () => Promise.reject(new DOMException("refused", "SecurityError")); const early = []; self.onmessage = (e) => early.push(e); await import(${JSON.stringify(String(url))}); for (const e of early) self.onmessage(e);`;
          super(URL.createObjectURL(new Blob([source], { type: "text/javascript" })), options);
        }
      };
    });
    const wasm = new URL("/dist/sqlite3.wasm", (await h.page({ db: "t9-url", connect: "no" })).url()).href;
    await page.goto(h.url({ db: "t9", user: "t9", wasm }));
    await page.waitForFunction("window.loaded");
    await page.evaluate("window.loaded");
    expect(await page.evaluate("syncStatus().persistent")).toBe(false);
    await add(page, "a", "for now");
    expect(await titles(page)).toEqual(["for now"]);
    await page.close();
  });
});

