/**
 * The whole server side, in memory: buckets with a history that can be
 * compacted, one client's grants, write checkpoints with a replication lag, and
 * sessions that send one line at a time. The same model as the Go SDK's.
 */
import { addChecksums, putChecksum, removeChecksum } from "../../src/checksum.js";
import type { BucketPosition } from "../../src/protocol/frames.js";
import type { Bucket, Data, Line, Op } from "../../src/protocol/lines.js";

/** What identifies a row inside a bucket. */
const identity = (op: Op): string => JSON.stringify([op.type, op.rowId, op.subkey]);

/** What remains of a bucket's ops: the oracle clients are compared with. */
export interface Reduced {
  readonly rows: ReadonlyMap<string, Op>;
  readonly checksum: number;
}

/** Folds ops, in order, into the state a client ends with. */
export function reduce(ops: readonly Op[]): Reduced {
  const rows = new Map<string, Op>();
  let checksum = 0;
  for (const op of ops) {
    switch (op.kind) {
      case "CLEAR":
        rows.clear();
        checksum = op.checksum;
        continue;
      case "PUT":
        rows.set(identity(op), op);
        break;
      case "REMOVE":
        rows.delete(identity(op));
        break;
      case "MOVE":
        break;
    }
    checksum = addChecksums(checksum, op.checksum);
  }
  return { rows, checksum };
}

export interface SimBucket {
  readonly name: string;
  readonly priority: number;
  ops: Op[];
}

export class SimServer {
  op = 0n;
  readonly buckets = new Map<string, SimBucket>();
  readonly granted = new Set<string>();
  /** Uploads the backend has accepted and replication has not seen. */
  readonly lag: (() => void)[] = [];
  writeCheckpoint = 0n;
  needs = 0;
  accepted = 0;
  replicated = 0;
  /** Compactions so far: sessions must move on after one. */
  moves = 0;

  bucket(name: string): SimBucket {
    return this.buckets.get(name) as SimBucket;
  }

  put(bucket: string, type: string, rowId: string, subkey: string, data: string): void {
    this.bucket(bucket).ops.push({ id: ++this.op, kind: "PUT", type, rowId, subkey, data, checksum: putChecksum(type, rowId, subkey, data) });
  }

  remove(bucket: string, type: string, rowId: string, subkey: string): void {
    this.bucket(bucket).ops.push({ id: ++this.op, kind: "REMOVE", type, rowId, subkey, data: "", checksum: removeChecksum(type, rowId, subkey) });
  }

  /** Replaces superseded ops by MOVEs, then a leading run of ops that hold no row by one CLEAR. */
  compact(bucket: string, withClear: boolean): void {
    const b = this.bucket(bucket);
    this.moves++;
    const last = new Set<string>();
    const ops = [...b.ops];
    const empty = { type: "", rowId: "", subkey: "", data: "" };
    for (let i = ops.length - 1; i >= 0; i--) {
      const op = ops[i] as Op;
      if (op.kind === "CLEAR") break;
      if (op.kind === "MOVE") continue;
      if (last.has(identity(op))) ops[i] = { ...empty, id: op.id, kind: "MOVE", checksum: op.checksum };
      last.add(identity(op));
    }
    b.ops = ops;
    if (!withClear) return;
    let n = 0;
    let sum = 0;
    for (; n < ops.length && ops[n]?.kind !== "PUT"; n++) {
      const op = ops[n] as Op;
      sum = op.kind === "CLEAR" ? op.checksum : addChecksums(sum, op.checksum);
    }
    if (n > 0) b.ops = [{ ...empty, id: (ops[n - 1] as Op).id, kind: "CLEAR", checksum: sum }, ...ops.slice(n)];
  }

  /** Folds a bucket's ops up to an op id. */
  at(bucket: string, opId: bigint): Reduced {
    return reduce(this.bucket(bucket).ops.filter((op) => op.id <= opId));
  }

  /** Lets the oldest accepted upload become ops. */
  replicate(): void {
    const effect = this.lag.shift();
    if (effect === undefined) return;
    effect();
    this.replicated++;
  }

  requestCheckpoint(): bigint {
    this.needs = this.accepted;
    return ++this.writeCheckpoint;
  }

  acknowledged(): bigint {
    return this.replicated >= this.needs ? this.writeCheckpoint : 0n;
  }

  connect(at: readonly BucketPosition[]): SimSession {
    return new SimSession(this, new Map(at.map((p) => [p.name, p.after])));
  }
}

/** One connection. */
export class SimSession {
  /** As of the last checkpoint line. */
  sent = new Map<string, Bucket>();
  target = 0n;
  first = true;
  /** The target was completed. */
  done = false;
  private writeCheckpoint = 0n;
  private moves = 0;
  private partials = new Set<number>();

  constructor(
    private readonly server: SimServer,
    private readonly positions: Map<string, bigint>,
  ) {}

  /** The newest checkpoint, whole or as a diff; null if nothing changed. */
  move(whole: boolean): Line | null {
    const { server } = this;
    const now = new Map<string, Bucket>();
    for (const name of server.granted) {
      const b = server.bucket(name);
      now.set(name, { name, checksum: server.at(name, server.op).checksum, count: b.ops.length, priority: b.priority, subscriptions: [] });
    }
    const updated: Bucket[] = [];
    const removed: string[] = [];
    for (const [name, b] of now) {
      const old = this.sent.get(name);
      if (old === undefined || old.checksum !== b.checksum || old.count !== b.count) updated.push(b);
      if (old === undefined && !this.first) this.positions.set(name, 0n);
    }
    for (const name of this.sent.keys()) {
      if (now.has(name)) continue;
      removed.push(name);
      this.positions.delete(name);
    }
    const wc = server.acknowledged();
    if (!this.first && !whole && updated.length === 0 && removed.length === 0 && wc === this.writeCheckpoint && this.done) return null;
    this.sent = now;
    this.target = server.op;
    this.writeCheckpoint = wc;
    this.done = false;
    this.moves = server.moves;
    this.partials = new Set();
    if (this.first || whole) {
      this.first = false;
      return { type: "checkpoint", lastOpId: this.target, writeCheckpoint: wc, buckets: [...now.values()], streams: [], streamsVersion: 0 };
    }
    return { type: "checkpoint_diff", lastOpId: this.target, writeCheckpoint: wc, updatedBuckets: updated, removedBuckets: removed };
  }

  /** The next line towards the target: data by priority, partial completions if wanted, the completion. null if done. */
  next(atMost: number, partials: boolean): Line | null {
    if (this.done) return null;
    const buckets = [...this.sent.values()].sort((a, b) => a.priority - b.priority || (a.name < b.name ? -1 : 1));
    for (const [i, b] of buckets.entries()) {
      const d = this.page(b.name, atMost);
      if (d === null) continue;
      const before = buckets[i - 1]?.priority ?? b.priority;
      if (partials && before < b.priority && !this.partials.has(before)) {
        this.partials.add(before);
        return { type: "partial_checkpoint_complete", lastOpId: this.target, priority: before };
      }
      this.positions.set(b.name, d.nextAfter);
      return d;
    }
    this.done = true;
    for (const b of buckets) {
      const at = this.positions.get(b.name) ?? 0n;
      this.positions.set(b.name, at > this.target ? at : this.target);
    }
    return { type: "checkpoint_complete", lastOpId: this.target };
  }

  private page(name: string, atMost: number): Data | null {
    const after = this.positions.get(name) ?? 0n;
    const rest = this.server.bucket(name).ops.filter((op) => op.id > after && op.id <= this.target);
    if (rest.length === 0) return null;
    const ops = rest.slice(0, atMost);
    return { type: "data", bucket: name, after, nextAfter: (ops.at(-1) as Op).id, hasMore: rest.length > atMost, ops };
  }

  /** Compaction changed ops below the target's successors: the target may not be completed any more. */
  get stale(): boolean {
    return !this.first && this.moves !== this.server.moves;
  }
}
