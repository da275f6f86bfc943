/**
 * Runs the real machine and the real storage against a simulated server, and
 * keeps beside them what readers must see: for each bucket the fold of what was
 * last published, the version with the greatest op id on top, and over it the
 * device's own writes.
 */
import { expect } from "vitest";
import { Applier } from "../../src/engine/applier.js";
import type { Begin, Complete, DownAction, DownEvent, Downlink } from "../../src/machine/downlink.js";
import { newDownlink, stepDownlink } from "../../src/machine/downlink.js";
import type { Line, Op } from "../../src/protocol/lines.js";
import { defineSchema, integer, table } from "../../src/schema.js";
import { verifySlice } from "../../src/store/diagnostics.js";
import { gateState, setTarget } from "../../src/store/gate.js";
import { clear, positions } from "../../src/store/positions.js";
import { publishPending } from "../../src/store/publish.js";
import type { UploadOp } from "../../src/store/queue.js";
import { completeUpload, nextTransaction } from "../../src/store/queue.js";
import type { Store } from "../../src/store/store.js";
import type { Reduced, SimSession } from "./simserver.js";
import { SimServer } from "./simserver.js";
import { shown } from "./sqlite.js";

export const modelSchema = defineSchema({
  a: table({ v: integer, w: integer }, { indexes: { v: ["v"] } }),
  b: table({ v: integer, w: integer }),
});

export const BUCKETS = ["p0", "p1", "p3a", "p3b"] as const;
const PRIORITIES = { p0: 0, p1: 1, p3a: 3, p3b: 3 } as const;

type Row = Record<string, unknown>;
const BACKOFF = { min: 1000, max: 60_000 };

export class Model {
  private readonly server = new SimServer();
  private session: SimSession | null = null;
  private apply: Applier;
  private down: Downlink = newDownlink(BACKOFF);
  /** By bucket; dropped ones under a name of their own. */
  private published = new Map<string, Reduced>();
  /** Own writes by type and id; null: deleted. */
  private overlay = new Map<string, Row | null>();
  /** The newest full completion; it may be published later, also after a reconnect. */
  private complete = new Map<string, Reduced>();
  private drops = 0;
  /** Buckets stored with damage, and those with a damaged line that is not staged yet. */
  private readonly wrong = new Set<string>();
  private readonly damaged = new Set<string>();
  private fullPublications = 0;
  private value = 0;
  private asked: { readonly id: bigint; readonly last: bigint } | null = null;

  constructor(
    private readonly store: Store,
    granted: readonly boolean[],
    private readonly verify: boolean,
    private readonly flushEvery: boolean,
  ) {
    clear(store, false);
    this.apply = new Applier(store, verify);
    BUCKETS.forEach((name, i) => {
      this.server.buckets.set(name, { name, priority: PRIORITIES[name], ops: [] });
      if (granted[i] === true) this.server.granted.add(name);
    });
    this.step({ type: "Connect" });
  }

  // What may happen

  /** Rows change on the server. */
  source(changes: readonly { readonly bucket: string; readonly type: string; readonly id: string; readonly subkey: string; readonly remove: boolean }[]): void {
    for (const c of changes) {
      if (c.remove) this.server.remove(c.bucket, c.type, c.id, c.subkey);
      else this.server.put(c.bucket, c.type, c.id, c.subkey, `{"id":"${c.id}","v":${++this.value},"x":1}`);
    }
  }

  compact(bucket: string, withClear: boolean): void {
    this.server.compact(bucket, withClear);
  }

  grant(bucket: string): void {
    if (!this.server.granted.delete(bucket)) this.server.granted.add(bucket);
  }

  replicate(): void {
    this.server.replicate();
  }

  /** The server sends a line; damage, if it is data, changes it in a way the client must notice. */
  line(how: { readonly move: boolean; readonly whole: boolean; readonly page: number; readonly partials: boolean; readonly damage: boolean; readonly where: number }): void {
    const s = this.session;
    if (s === null) return;
    let l = s.first || s.stale || how.move ? s.move(how.whole) : s.next(how.page, how.partials);
    if (l === null) return;
    if (l.type === "data" && how.damage) {
      const at = how.where % l.ops.length;
      const op = l.ops[at] as Op;
      this.damaged.add(l.bucket);
      const ops = this.verify && op.kind === "PUT" ? l.ops.with(at, { ...op, data: op.data.replace('"x":1', '"x":2') }) : l.ops.toSpliced(at, 1);
      l = { ...l, ops };
    }
    this.deliver(l);
  }

  reconnect(lost: boolean): void {
    if (this.session === null) return this.step({ type: "TimerFired", attempt: this.down.attempt });
    if (lost) this.discard();
    else {
      const e = this.flush();
      if (e !== null) return this.step(e);
    }
    this.step({ type: "Ended", attempt: this.down.attempt, reason: "lost", error: new Error("cut") });
  }

  /** The browser is killed: what is not in the tables is gone. */
  restart(): void {
    this.discard();
    this.session = null;
    this.asked = null;
    this.store.forget();
    this.down = newDownlink(BACKOFF);
    this.step({ type: "Connect" });
  }

  /** Local writes, in one transaction that may be rolled back. */
  write(writes: readonly { readonly type: string; readonly id: string; readonly remove: boolean }[], rollback: boolean): void {
    const visible = shown(this.store);
    const after = new Map(this.overlay);
    const undo = new Error("rolled back");
    try {
      this.store.localWrite(() => {
        for (const w of writes) this.localWrite(visible, after, w);
        if (rollback) throw undo;
      });
      this.overlay = after;
    } catch (e) {
      if (e !== undo) throw e;
    }
  }

  private localWrite(visible: Record<string, Record<string, unknown>>, after: Map<string, Row | null>, w: { readonly type: string; readonly id: string; readonly remove: boolean }): void {
    const v = ++this.value;
    const name = JSON.stringify([w.type, w.id]);
    const rows = (visible[w.type] ??= {});
    const have = rows[w.id] as Row | undefined;
    if (have === undefined) {
      this.store.db.run(`INSERT INTO ${w.type} (id, v) VALUES (?, ?)`, w.id, v);
      rows[w.id] = { v };
      after.set(name, { v });
    } else if (w.remove) {
      this.store.db.run(`DELETE FROM ${w.type} WHERE id = ?`, w.id);
      delete rows[w.id];
      after.set(name, null);
    } else {
      this.store.db.run(`UPDATE ${w.type} SET v = ? WHERE id = ?`, v, w.id);
      rows[w.id] = { ...have, v };
      after.set(name, { ...have, v });
    }
  }

  /** Sends all waiting transactions to the backend and asks for a write checkpoint, as the upload half does. */
  upload(refuse: boolean): void {
    for (let tx = nextTransaction(this.store); tx !== null; tx = nextTransaction(this.store)) {
      const { ops } = tx;
      this.server.accepted++;
      this.server.lag.push(() => {
        if (!refuse) for (const op of ops) this.backend(op);
      });
      completeUpload(this.store, tx.id);
    }
    const g = gateState(this.store);
    if (g.unacknowledged && this.asked === null) this.asked = { id: this.server.requestCheckpoint(), last: g.last };
  }

  /** The answer to the request for a write checkpoint arrives: perhaps after more writes, or after a completion that has the number. */
  answer(): void {
    if (this.asked === null) return;
    const g = gateState(this.store);
    expect(setTarget(this.store, this.asked.id, this.asked.last)).toBe(g.queued === 0 && g.last === this.asked.last);
    this.asked = null;
    if (publishPending(this.store)) this.fullyPublished();
  }

  /** Everything comes back down before the answer to the request for a write checkpoint does; something may come in between. */
  lateAnswer(between: () => void): void {
    this.upload(false);
    while (this.server.lag.length > 0) this.server.replicate();
    this.finish();
    this.check();
    between();
    this.answer();
  }

  /** Rows of type a go to bucket p1, of b to p3a. */
  private backend(op: UploadOp): void {
    const bucket = op.type === "a" ? "p1" : "p3a";
    if (op.op === "DELETE") return this.server.remove(bucket, op.type, op.id, "");
    const have = this.server.at(bucket, this.server.op).rows.get(JSON.stringify([op.type, op.id, ""]));
    this.server.put(bucket, op.type, op.id, "", JSON.stringify({ ...(have === undefined ? {} : (JSON.parse(have.data) as Row)), ...op.data }));
  }

  /** A stored row rots; the device's own check must find its bucket, and only that one. */
  rot(pick: number): void {
    const versions = [...this.store.rowTypes()].flatMap(([, n]) =>
      this.store.db.all(`SELECT ${n}, r.rowid, b.name FROM mr_rows_${n} r JOIN mr_buckets b ON b.id = r.bucket WHERE r.data IS NOT NULL AND b.name IS NOT NULL ORDER BY r.rowid`));
    const v = versions[pick % Math.max(versions.length, 1)];
    if (v === undefined) return;
    const table = `mr_rows_${String(v[0])}`;
    const [data] = this.store.db.row(`SELECT data FROM ${table} WHERE rowid = ?`, v[1] as number) ?? [];
    this.store.db.run(`UPDATE ${table} SET data = '{"rotten":1}' WHERE rowid = ?`, v[1] as number);
    const bad: string[] = [];
    for (let at: ReturnType<typeof verifySlice>["next"] = { type: 0, rowid: 0n }; at !== null; ) {
      const slice = verifySlice(this.store, at, 2);
      bad.push(...slice.bad);
      at = slice.next;
    }
    expect([...new Set(bad)]).toEqual([String(v[2])]);
    // Put right again: that a dropped bucket is downloaded again is what damage shows.
    this.store.db.run(`UPDATE ${table} SET data = ? WHERE rowid = ?`, data as string, v[1] as number);
  }

  // Running the machine

  private deliver(line: Line): void {
    this.step({ type: "Received", attempt: this.down.attempt, line });
  }

  private step(e: DownEvent): void {
    const { state, actions } = stepDownlink(this.down, e);
    this.down = state;
    for (const a of actions) {
      const answer = this.act(a);
      if (answer === null) continue;
      this.step(answer);
      if (answer.type === "Corrupt" || answer.type === "StorageFailed") return;
    }
  }

  private act(a: DownAction): DownEvent | null {
    switch (a.type) {
      case "FetchCredentials":
        return { type: "CredentialsReady", attempt: a.attempt };
      case "OpenStream":
        this.session = this.server.connect(positions(this.store));
        return { type: "Opened", attempt: a.attempt, inBand: false };
      case "CloseStream":
        this.session = null;
        this.discard();
        return null;
      case "StartTimer":
        this.session = null;
        return null;
      case "Stage":
        return this.apply.add(a.data) || this.flushEvery ? this.flush() : null;
      case "Begin":
      case "Complete":
      case "DropBuckets":
        return this.storage(a);
      default:
        return null;
    }
  }

  private storage(a: Begin | Complete | Extract<DownAction, { type: "DropBuckets" }>): DownEvent | null {
    const failed = this.flush();
    if (failed !== null) return failed;
    if (a.type === "Begin") {
      const keep = new Set(a.updated.map((b) => b.name));
      const gone = a.whole ? BUCKETS.filter((name) => !keep.has(name)) : a.removed;
      for (const name of gone) this.drop(name);
    } else if (a.type === "DropBuckets") for (const name of a.names) this.drop(name);
    const e = this.apply.run(this.down.attempt, a);
    if (e !== null) this.mayFail(e);
    if (a.type === "Complete" && e?.type === "Applied") {
      this.checkGate(a, e.published);
      const covered = new Map(a.buckets.map((b) => [b.name, this.server.at(b.name, a.opId)]));
      if (a.full) this.complete = covered;
      if (e.published && a.full) this.fullyPublished();
      else if (e.published) for (const [name, r] of covered) this.published.set(name, r);
    }
    return e;
  }

  /** What was published of a dropped bucket stays until the next full publication. */
  private drop(name: string): void {
    this.wrong.delete(name);
    const r = this.published.get(name);
    if (r === undefined) return;
    this.published.set(`dropped ${++this.drops}`, r);
    this.published.delete(name);
  }

  /** Only what was damaged may be found wrong. */
  private mayFail(e: DownEvent): void {
    if (e.type === "StorageFailed") throw e.error;
    if (e.type === "Corrupt") for (const name of e.buckets) expect(this.wrong.has(name) || this.damaged.has(name), `undamaged data was refused: ${e.error.message}`).toBe(true);
  }

  private flush(): DownEvent | null {
    const e = this.apply.flush(this.down.attempt);
    if (e !== null) this.mayFail(e);
    // Of a bucket found wrong nothing was staged, of the others everything.
    const refused = e?.type === "Corrupt" ? e.buckets : [];
    for (const name of this.damaged) if (!refused.includes(name)) this.wrong.add(name);
    this.damaged.clear();
    return e;
  }

  private discard(): void {
    this.apply.discard();
    this.damaged.clear();
  }

  // The oracle

  /** A completion is published exactly if the gate lets it through. */
  private checkGate(c: Complete, published: boolean): void {
    const [queued, target, seen] = this.store.db.row(`SELECT (SELECT count(*) FROM mr_queue), target, seen FROM mr_state`) ?? [];
    const open = (queued === 0 && BigInt(target as number | bigint) <= BigInt(seen as number | bigint)) || (!c.full && c.priority === 0);
    expect(published).toBe(open);
    if (c.full && published) expect(this.server.replicated, "published over own writes the server's state lacks").toBeGreaterThanOrEqual(this.server.needs);
  }

  /** Moves the oracle to the newest full completion. */
  private fullyPublished(): void {
    this.fullPublications++;
    this.overlay.clear();
    this.published = new Map(this.complete);
  }

  /** Compares what readers see with the oracle. */
  check(): void {
    expect(shown(this.store)).toEqual(visibleRows(this.published.values(), this.overlay));
    for (const [, n] of this.store.rowTypes()) {
      const versions = `SELECT r.id, b.published >= r.op_id AS p FROM mr_rows_${n} r JOIN mr_buckets b ON b.id = r.bucket GROUP BY r.id, r.bucket, r.subkey, p HAVING count(*) > 1`;
      expect(this.store.db.all(versions), "one published and one staged version for each key").toEqual([]);
    }
  }

  /** Lets everything come to rest: then the client must equal the server. */
  settle(): void {
    for (let i = 0; i < 50 && (i === 0 || !this.rested()); i++) {
      while (this.server.lag.length > 0) this.server.replicate();
      this.upload(false);
      this.answer();
      this.finish();
      this.check();
    }
    expect(this.rested(), "the client comes to rest").toBe(true);
    expect(shown(this.store)).toEqual(visibleRows([...this.server.granted].map((name) => this.server.at(name, this.server.op)), new Map()));
    expect(this.fullPublications).toBeGreaterThan(0);
    // Nothing is left over: no touched rows, no waves but the hidden one, one version per row key.
    expect(this.store.db.row(`SELECT (SELECT count(*) FROM mr_touched), (SELECT count(*) FROM mr_waves), (SELECT count(*) FROM mr_buckets WHERE name IS NULL)`)).toEqual([0, 1, 0]);
    for (const [, n] of this.store.rowTypes()) {
      expect(this.store.db.all(`SELECT id FROM mr_rows_${n} GROUP BY id, bucket, subkey HAVING count(*) > 1 OR max(data IS NULL)`)).toEqual([]);
    }
  }

  private rested(): boolean {
    return this.overlay.size === 0 && this.session?.done === true && this.session.move(false) === null && this.store.db.row(`SELECT pending FROM mr_state`)?.[0] === 0;
  }

  /** Brings the session to the end of the newest checkpoint. */
  private finish(): void {
    for (let i = 0; i < 200; i++) {
      const s = this.session;
      if (s === null) {
        this.step({ type: "TimerFired", attempt: this.down.attempt });
        continue;
      }
      const l = s.first || s.stale || s.done ? s.move(false) : s.next(100, false);
      if (l === null) return;
      this.deliver(l);
    }
  }
}

/** For every row the version with the greatest op id over all buckets, own writes on top. */
function visibleRows(buckets: Iterable<Reduced>, overlay: ReadonlyMap<string, Row | null>): Record<string, Record<string, unknown>> {
  const newest = new Map<string, Op>();
  for (const r of buckets) {
    for (const op of r.rows.values()) {
      const name = JSON.stringify([op.type, op.rowId]);
      if (op.id > (newest.get(name)?.id ?? 0n)) newest.set(name, op);
    }
  }
  const rows = new Map<string, Row>();
  for (const [name, op] of newest) rows.set(name, JSON.parse(op.data) as Row);
  for (const [name, row] of overlay) {
    if (row === null) rows.delete(name);
    else rows.set(name, row);
  }
  const out: Record<string, Record<string, unknown>> = {};
  for (const [name, row] of rows) {
    const [type, id] = JSON.parse(name) as [string, string];
    (out[type] ??= {})[id] = row;
  }
  return out;
}
