import { afterAll, beforeAll, expect, it } from "vitest";
import { eventually, Harness } from "./harness.js";
import { atRest, titles, todo } from "./pages.js";

let h: Harness;
beforeAll(async () => {
  h = await Harness.start();
});
afterAll(async () => {
  await h.stop();
});

it("a corrupted local row is found by its checksum, and only its bucket is downloaded again (S3)", async () => {
  await h.commit(
    { do: "grant", sub: "eve", list: "l1" },
    { do: "put", definition: "list", key: "l1", table: "todos", id: "x1", data: todo("x1", "Milk") },
    { do: "put", definition: "list", key: "l1", table: "todos", id: "x2", data: todo("x2", "Bread") },
    { do: "rows", definition: "mine", key: "eve", table: "todos", id: "r%d", data: '{"title":"mine %d","done":0}', rows: 50 },
  );
  const page = await h.page({ db: "damage", user: "eve" });
  await eventually(page, atRest);
  expect(await page.evaluate("db.verify()")).toEqual([]);

  const before = await page.evaluate<{ name: string; position: string }[]>("db.diagnostics().then((d) => d.buckets.map((b) => ({ name: b.name, position: String(b.position) })))");
  const rowids = `db.getAll("SELECT r.rowid AS n FROM mr_rows_1 r JOIN mr_buckets b ON b.id = r.bucket WHERE b.name LIKE ? ORDER BY 1", ["%mine[%"]).then((r) => r.map((x) => x.n))`;
  const mine = await page.evaluate<number[]>(rowids);
  expect(mine.length).toBe(50);
  await page.evaluate(`db.execute("UPDATE mr_rows_1 SET data = replace(data, 'Milk', 'Silk') WHERE id = 'x1'")`);
  expect(await titles(page)).toContain("Silk");
  const bad = await page.evaluate<string[]>("db.verify()");
  const list = before.find((b) => b.name.includes("list["));
  expect(bad).toEqual([list?.name]);
  await eventually(page, "db.getAll('SELECT title FROM todos').then((r) => r.some((x) => x.title === 'Milk'))");
  await eventually(page, atRest);
  expect((await titles(page)).filter((t) => !t.startsWith("mine"))).toEqual(["Bread", "Milk"]);
  expect(await page.evaluate("db.verify()")).toEqual([]);

  // The other buckets were not downloaded again: their versions are the very ones of before.
  expect(await page.evaluate(rowids)).toEqual(mine);
  const after = await page.evaluate<string[]>("db.diagnostics().then((d) => d.buckets.map((b) => b.name))");
  expect(after.sort()).toEqual(before.map((b) => b.name).sort());
  await page.close();
});
