import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually, Harness } from "./harness.js";

let h: Harness;
beforeAll(async () => {
  h = await Harness.start();
});
afterAll(async () => {
  await h.stop();
});

const titles = (p: Page): Promise<string[]> => p.evaluate("db.getAll('SELECT title FROM todos ORDER BY title').then((r) => r.map((x) => x.title))");
const add = (p: Page, id: string, title: string): Promise<unknown> => p.evaluate(`db.execute("INSERT INTO todos (id, title, done) VALUES (?, ?, 0)", ${JSON.stringify([id, title])})`);

describe("one page", () => {
  it("shows the server's rows and uploads its own", async () => {
    await h.commit({ do: "put", definition: "mine", key: "alice", table: "todos", id: "s1", data: '{"id":"s1","title":"Milk","done":0}' });
    const page = await h.page({ db: "one" });
    await eventually(page, "syncStatus().hasSynced");
    expect(await titles(page)).toEqual(["Milk"]);
    await add(page, "l1", "Bread");
    expect(await titles(page)).toEqual(["Bread", "Milk"]);
    await eventually(page, "syncStatus().pendingUploads === 0 && !syncStatus().held && !syncStatus().uploading");
    expect((await h.uploaded()).rows["alice todos l1"]).toEqual({ id: "l1", title: "Bread", done: 0 });
    expect(await titles(page)).toEqual(["Bread", "Milk"]);
    expect(await page.evaluate("syncStatus().persistent")).toBe(true);
    await page.close();
  });
});
