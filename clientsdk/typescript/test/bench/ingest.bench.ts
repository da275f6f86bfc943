import { expect, it } from "vitest";
import { putChecksum } from "../../src/checksum.js";
import { decodeLine } from "../../src/protocol/decode.js";
import type { Data } from "../../src/protocol/lines.js";
import { defineSchema, integer, table, text } from "../../src/schema.js";
import { complete } from "../../src/store/publish.js";
import { begin, stage } from "../../src/store/stage.js";
import { addChecksums } from "../../src/checksum.js";
import { testStore } from "../support/sqlite.js";

const ROWS = Number(process.env.MILLRACE_ROWS ?? 100_000);

/** Milliseconds of processor time: what others do on the machine counts less. */
const cpu = (): number => {
  const u = process.cpuUsage();
  return (u.user + u.system) / 1000;
};

/** Lines of 1,000 ops, as a server sends them. */
function lines(): string[] {
  const out: string[] = [];
  for (let at = 0; at < ROWS; at += 1000) {
    const data = Array.from({ length: Math.min(1000, ROWS - at) }, (_, i) => {
      const n = at + i + 1;
      const id = `00000000-0000-4000-8000-${String((n * 7919) % 1_000_003).padStart(12, "0")}`;
      const row = JSON.stringify({ id, list_id: "9c6b1e52-5d3f-4a6e-8a37-0d9c1d1f7a11", title: "Buy milk and a few other things", notes: "x".repeat(120), done: 0, created_by: "alice", created_at: "2026-01-01 00:00:00Z" });
      return { op_id: String(n), op: "PUT", object_type: "todos", object_id: id, checksum: putChecksum("todos", id, "", row), data: row };
    });
    out.push(JSON.stringify({ data: { bucket: "b", after: String(at), next_after: String(at + data.length), has_more: true, data } }));
  }
  return out;
}

it("ingest in node, in memory", async () => {
  const sent = lines();
  for (let run = 0; run < 3; run++) {
    const store = await testStore(defineSchema({ todos: table({ title: text, done: integer }) }));
    const t0 = cpu();
    const decoded = sent.map((l) => decodeLine(l) as Data);
    const t1 = cpu();
    const checksum = decoded.reduce((sum, d) => d.ops.reduce((s, op) => addChecksums(s, op.checksum), sum), 0);
    const bucket = { name: "b", checksum, count: ROWS, priority: 3, subscriptions: [] };
    begin(store, true, [bucket], []);
    const t2 = cpu();
    for (let i = 0; i < decoded.length; i += 4) stage(store, decoded.slice(i, i + 4), true);
    const t3 = cpu();
    expect(complete(store, { opId: BigInt(ROWS), writeCheckpoint: 0n, buckets: [bucket], full: true, priority: 0 })).toEqual({ bad: [], published: true });
    const t4 = cpu();
    console.log(`decode ${(t1 - t0).toFixed(0)} ms, stage ${(t3 - t2).toFixed(0)} ms (${Math.round(ROWS / ((t3 - t2) / 1000))} rows/s), publish ${(t4 - t3).toFixed(1)} ms`);
    store.close();
  }
});
