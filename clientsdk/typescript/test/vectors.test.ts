import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Applier } from "../src/engine/applier.js";
import type { DownEvent, Downlink } from "../src/machine/downlink.js";
import { newDownlink, stepDownlink } from "../src/machine/downlink.js";
import { decodeLine } from "../src/protocol/decode.js";
import { defineSchema, integer, table, text } from "../src/schema.js";
import { gateState, setTarget } from "../src/store/gate.js";
import { positions } from "../src/store/positions.js";
import { publishPending } from "../src/store/publish.js";
import type { UploadOp } from "../src/store/queue.js";
import { completeUpload, nextTransaction } from "../src/store/queue.js";
import type { Store } from "../src/store/store.js";
import { shown, testStore } from "./support/sqlite.js";

/** One file of protocol/testdata/apply; README.md there explains it. Each step has exactly one key. */
interface Step {
  readonly connect?: { readonly name: string; readonly after: string }[];
  readonly line?: unknown;
  readonly cut?: true;
  readonly restart?: true;
  readonly write?: UploadOp[];
  readonly uploaded?: UploadOp[];
  readonly write_checkpoint?: string;
  readonly expect?: { readonly rows: Record<string, Record<string, unknown>>; readonly open: boolean };
}
interface Vector {
  readonly name: string;
  readonly steps: Step[];
}

const dir = new URL("../../../protocol/testdata/apply/", import.meta.url);
const files = readdirSync(dir).filter((f) => f.endsWith(".json"));
const schema = defineSchema({ todos: table({ title: text, done: integer }) });

/** A machine and a store without a network. */
class Client {
  private down: Downlink = newDownlink({ min: 1000, max: 1000 });
  private apply: Applier;
  open = false;

  constructor(readonly store: Store) {
    this.apply = new Applier(store, true);
  }

  run(s: Step): void {
    if (s.connect !== undefined) this.connect(s.connect);
    else if (s.line !== undefined) {
      expect(this.open).toBe(true);
      this.step({ type: "Received", attempt: this.down.attempt, line: decodeLine(JSON.stringify(s.line)) });
    } else if (s.cut === true) this.step({ type: "Ended", attempt: this.down.attempt, reason: "lost", error: new Error("cut") });
    else if (s.restart === true) {
      this.store.forget();
      this.apply = new Applier(this.store, true);
      this.down = newDownlink({ min: 1000, max: 1000 });
      this.open = false;
    } else if (s.write !== undefined) this.store.localWrite(() => s.write?.forEach((op) => this.write(op)));
    else if (s.uploaded !== undefined) this.upload(s.uploaded);
    else if (s.write_checkpoint !== undefined) {
      expect(setTarget(this.store, BigInt(s.write_checkpoint), gateState(this.store).last)).toBe(true);
      publishPending(this.store);
    } else if (s.expect !== undefined) {
      expect(shown(this.store)).toEqual(Object.fromEntries(Object.entries(s.expect.rows).filter(([, rows]) => Object.keys(rows).length > 0)));
      expect(this.open).toBe(s.expect.open);
    } else throw new Error("an empty step");
  }

  private connect(want: { name: string; after: string }[]): void {
    this.step(this.down.phase === "waiting" ? { type: "TimerFired", attempt: this.down.attempt } : { type: "Connect" });
    const got = positions(this.store).map((p) => ({ name: p.name, after: String(p.after) }));
    expect(got.sort((a, b) => (a.name < b.name ? -1 : 1))).toEqual(want);
  }

  private step(e: DownEvent): void {
    const { state, actions } = stepDownlink(this.down, e);
    this.down = state;
    for (const a of actions) {
      let answer: DownEvent | null = null;
      switch (a.type) {
        case "FetchCredentials":
          answer = { type: "CredentialsReady", attempt: a.attempt };
          break;
        case "OpenStream":
          this.open = true;
          answer = { type: "Opened", attempt: a.attempt, inBand: true };
          break;
        case "CloseStream":
        case "StartTimer":
          this.open = false;
          break;
        case "Stage":
          this.apply.add(a.data);
          answer = this.apply.flush(this.down.attempt);
          break;
        case "Begin":
        case "Complete":
        case "DropBuckets":
          answer = this.apply.run(this.down.attempt, a);
          break;
      }
      if (answer === null) continue;
      if (answer.type === "StorageFailed") throw answer.error;
      this.step(answer);
      if (answer.type === "Corrupt") return;
    }
  }

  private write(op: UploadOp): void {
    const data = op.data ?? {};
    const columns = Object.keys(data);
    const values = Object.values(data);
    if (op.op === "PUT") this.store.db.run(`INSERT INTO ${op.type} (${[...columns, "id"].join(", ")}) VALUES (${[...columns, "id"].map(() => "?").join(", ")})`, ...values, op.id);
    else if (op.op === "PATCH") this.store.db.run(`UPDATE ${op.type} SET ${columns.map((c) => c + " = ?").join(", ")} WHERE id = ?`, ...values, op.id);
    else this.store.db.run(`DELETE FROM ${op.type} WHERE id = ?`, op.id);
  }

  private upload(want: UploadOp[]): void {
    const got: UploadOp[] = [];
    for (let tx = nextTransaction(this.store); tx !== null; tx = nextTransaction(this.store)) {
      got.push(...tx.ops);
      completeUpload(this.store, tx.id);
    }
    expect(got).toEqual(want);
    publishPending(this.store);
  }
}

describe("apply vectors", () => {
  it("are there", () => expect(files.length).toBeGreaterThanOrEqual(19));
  for (const file of files) {
    const v = JSON.parse(readFileSync(new URL(file, dir), "utf8")) as Vector;
    it(v.name, async () => {
      const client = new Client(await testStore(schema));
      v.steps.forEach((s, i) => {
        try {
          client.run(s);
        } catch (e) {
          throw new Error(`step ${i} ${JSON.stringify(s).slice(0, 200)}: ${String(e)}`, { cause: e });
        }
      });
      client.store.close();
    });
  }
});
