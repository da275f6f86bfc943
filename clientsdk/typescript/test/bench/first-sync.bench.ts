import { afterAll, beforeAll, expect, it } from "vitest";
import { eventually, Harness } from "../browser/harness.js";
import { atRest } from "../browser/pages.js";

/** How many rows; 1/50 of it checks results rather than times. */
const ROWS = Number(process.env.MILLRACE_ROWS ?? 100_000);
const RUNS = Number(process.env.MILLRACE_RUNS ?? 3);

let h: Harness;
beforeAll(async () => {
  h = await Harness.start();
  const data = `{"id":"%08d","list_id":"9c6b1e52-5d3f-4a6e-8a37-0d9c1d1f7a11","title":"Buy milk and a few other things","notes":"${"x".repeat(120)}","done":0,"created_by":"alice","created_at":"2026-01-01 00:00:00Z"}`;
  await h.commit({ do: "rows", definition: "global", key: "", table: "todos", id: "00000000-0000-4000-8000-%012d", data, rows: ROWS });
});
afterAll(async () => {
  await h.stop();
});

it("first sync", async () => {
  const rates: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    const page = await h.page({ db: `bench-${run}`, user: `user-${run}`, connect: "no" });
    await page.evaluate(`(() => { window.longest = 0; let last = performance.now(); const tick = () => { const now = performance.now(); longest = Math.max(longest, now - last); last = now; requestAnimationFrame(tick); }; requestAnimationFrame(tick); window.began = performance.now(); connect(); })()`);
    await eventually(page, atRest);
    const ms = await page.evaluate<number>("syncStatus().lastSyncedAt.getTime() - (performance.timeOrigin + began)");
    expect(await page.evaluate("db.get('SELECT count(*) AS n FROM todos').then((r) => r.n)")).toBe(ROWS);
    const time = async (what: string, n = 1): Promise<number> => {
      const t = await page.evaluate<number[]>(`(async () => { const out = []; for (let i = 0; i < ${n}; i++) { const t = performance.now(); await (${what}); out.push(performance.now() - t); } return out.sort((a, b) => a - b); })()`);
      return t[Math.floor(t.length / 2)] as number;
    };
    const scan = await time("db.get('SELECT count(*) AS n, sum(length(title)) FROM todos')", 3);
    const many = await time("db.getAll('SELECT * FROM todos LIMIT 10000')", 3);
    const write = await time("db.execute('INSERT INTO todos (id, title) VALUES (?, ?)', [crypto.randomUUID(), 'x'])", 50);
    const frame = await page.evaluate<number>("longest");
    rates.push(ROWS / (ms / 1000));
    console.log(`${ROWS} rows in ${Math.round(ms)} ms: ${Math.round(ROWS / (ms / 1000))} rows/s; longest frame ${frame.toFixed(0)} ms; scan ${scan.toFixed(0)} ms; 10,000 rows to the page ${many.toFixed(0)} ms; local write ${write.toFixed(1)} ms`);
    await page.close();
  }
  expect(rates.length).toBe(RUNS);
});
