import type { Bucket, Data, Op } from "../protocol/lines.js";
import { addChecksums, crc32c, fmix32 } from "../checksum.js";
import { SQLITE_DONE, SQLITE_ROW, STATIC } from "../sqlite/connection.js";
import type { Statement } from "../sqlite/connection.js";
import { HIDDEN, rowsTable } from "./layout.js";
import type { Store, StoredBucket } from "./store.js";

/**
 * What is stored of a bucket, or what the server sent of it, cannot be right.
 * The cure is to drop that bucket, and only that one, and download it again.
 */
export class BadBucketError extends Error {
  override readonly name = "MillraceBadBucketError";
  constructor(
    readonly bucket: string,
    reason: string,
  ) {
    super(`bucket ${bucket}: ${reason}; it is downloaded again`);
  }
}

/** Ops towards the current checkpoint. */
export interface Progress {
  readonly downloaded: number;
  readonly total: number;
}

/**
 * Makes the stored buckets those of a new target: updated ones are created
 * where missing; removed ones, and with whole all that are not in updated, are
 * dropped. Readers notice nothing before a completion.
 */
export function begin(store: Store, whole: boolean, updated: readonly Bucket[], removed: readonly string[]): Progress {
  return store.write(false, () => {
    const buckets = store.buckets();
    endPending(store);
    const gone = [...removed];
    if (whole) {
      const keep = new Set(updated.map((b) => b.name));
      for (const name of buckets.keys()) if (!keep.has(name)) gone.push(name);
    }
    for (const name of gone) drop(store, name);
    let restart = false;
    for (const u of updated) {
      const b = buckets.get(u.name) ?? create(store, u.name);
      b.count = u.count;
      restart ||= b.count < b.atLast + b.since;
    }
    if (restart) {
      // The history was compacted: what was counted is no measure any more.
      for (const b of buckets.values()) b.atLast = b.since = 0;
      store.db.run(`UPDATE mr_buckets SET at_last = 0, since = 0`);
    }
    let downloaded = 0;
    let total = 0;
    for (const b of buckets.values()) {
      if (b.count <= b.atLast) continue;
      downloaded += b.since;
      total += b.count - b.atLast;
    }
    return { downloaded, total };
  });
}

function endPending(store: Store): void {
  store.db.run(`UPDATE mr_state SET pending = 0 WHERE pending = 1`);
}

function create(store: Store, name: string): StoredBucket {
  const id = Number(store.db.integer(`INSERT INTO mr_buckets (name) VALUES (?) RETURNING id`, name));
  const b: StoredBucket = { id, name, position: 0n, settled: false, checksum: 0, published: 0n, cleared: 0n, wave: 0, atLast: 0, since: 0, count: 0 };
  store.buckets().set(name, b);
  return b;
}

/** Forgets a bucket. Its published rows stay visible until the next full publication; what was staged goes at once. */
function drop(store: Store, name: string): void {
  const b = store.buckets().get(name);
  if (b === undefined) return;
  store.buckets().delete(name);
  deleteStaged(store, b, b.position);
  if (b.wave !== 0) store.db.run(`DELETE FROM mr_waves WHERE wave = ?`, b.wave);
  store.db.run(`UPDATE mr_buckets SET name = NULL, position = published, wave = 0 WHERE id = ?`, b.id);
}

function deleteStaged(store: Store, b: StoredBucket, upTo: bigint): void {
  if (b.position === b.published) return;
  for (const [, n] of store.rowTypes()) {
    store.db.run(`DELETE FROM ${rowsTable(n)} WHERE bucket = ? AND op_id > ? AND op_id <= ?`, b.id, b.published, upTo);
  }
}

/** Drops buckets that turned out wrong, so that the next request asks for them from the start. */
export function dropBad(store: Store, names: readonly string[]): void {
  store.write(false, () => {
    endPending(store);
    for (const name of names) drop(store, name);
  });
}

/**
 * Stores ops in one transaction without showing them. An op that the protocol
 * forbids, or whose checksum is wrong where verify is set, throws a
 * {@link BadBucketError}, and nothing of the call is stored.
 */
export function stage(store: Store, lines: readonly Data[], verify: boolean): void {
  store.write(false, () => {
    endPending(store);
    const touched = new Set<StoredBucket>();
    const writer = new OpWriter(store, verify);
    for (const line of lines) {
      const b = store.buckets().get(line.bucket);
      if (b === undefined) throw new BadBucketError(line.bucket, "the server sent ops of a bucket that is not in the checkpoint");
      touched.add(b);
      for (const op of line.ops) {
        if (op.id <= b.position) throw new BadBucketError(b.name, `op ${op.id} came after ${b.position}`);
        writer.op(b, op);
        b.position = op.id;
        b.since++;
      }
    }
    for (const b of touched) store.save(b);
  });
}

/** Statements on the table of one type. */
class TypeWriter {
  readonly find: Statement;
  readonly insert: Statement;
  /** What is bound to the insert and stays bound. */
  bucket: number | null = null;
  wave: number | null = null;

  constructor(
    store: Store,
    readonly type: string,
    readonly n: number,
  ) {
    const table = rowsTable(n);
    this.find = store.db.statement(`SELECT 1 FROM ${table} WHERE id = ?`);
    this.insert = store.db.statement(`INSERT INTO ${table} (id, bucket, subkey, op_id, wave, checksum, data) VALUES (?, ?, ?, ?, ?, ?, ?)`);
  }
}

/**
 * The row path. Each op is encoded once, into the wasm heap, in the layout its
 * checksum is defined over; SQLite is given addresses into it. A row nobody
 * else has a version of is inserted with its bucket's wave and shows with it;
 * for any other the next publication decides.
 */
class OpWriter {
  private readonly types = new Map<string, TypeWriter>();
  private last: TypeWriter | null = null;
  /** What the scratch area begins with, up to `id`, and its CRC; "": something else. */
  private prefix = "";
  private prefixCrc = 0;
  /** Where the parts of the op are in the scratch area. */
  private id = 0;
  private idBytes = 0;
  private subkey = 0;
  private subkeyBytes = 0;
  private data = 0;
  private end = 0;

  constructor(
    private readonly store: Store,
    private readonly verify: boolean,
  ) {}

  op(b: StoredBucket, op: Op): void {
    switch (op.kind) {
      case "PUT":
      case "REMOVE":
        this.row(b, op);
        break;
      case "CLEAR":
        deleteStaged(this.store, b, op.id);
        b.cleared = op.id;
        b.checksum = op.checksum;
        return;
      case "MOVE":
        break;
    }
    b.checksum = addChecksums(b.checksum, op.checksum);
  }

  private type(name: string): TypeWriter {
    if (this.last?.type === name) return this.last;
    let t = this.types.get(name);
    if (t === undefined) {
      t = new TypeWriter(this.store, name, this.store.typeId(name));
      this.types.set(name, t);
    }
    this.last = t;
    return t;
  }

  private row(b: StoredBucket, op: Op): void {
    const t = this.type(op.type);
    const put = op.kind === "PUT";
    this.encode(op);
    if (this.verify && this.checksum() !== op.checksum) {
      throw new BadBucketError(b.name, `op ${op.id} (${op.kind} ${op.type} ${op.rowId}) does not match its checksum`);
    }
    if (this.found(t)) {
      this.contested(b, t, op);
      this.encode(op); // other statements have used the scratch area
      this.insert(b, t, op, HIDDEN);
    } else if (put) this.insert(b, t, op, waveOf(this.store, b));
    // else nobody has the row that is removed
  }

  /** Writes P or R, type, 0, id, 0, subkey, and for a PUT 0, data into the scratch area: see checksum.ts. */
  private encode(op: Op): void {
    const { db } = this.store;
    const before = db.scratch;
    db.reserve(3 * (op.type.length + op.rowId.length + op.subkey.length + op.data.length) + 8);
    const prefix = (op.kind === "PUT" ? "P" : "R") + op.type;
    if (prefix !== this.prefix || db.scratch !== before) {
      this.id = db.write(prefix, 0) + 1;
      db.heap()[db.scratch + this.id - 1] = 0;
      this.prefix = prefix;
      this.prefixCrc = crc32c(db.heap(), db.scratch, db.scratch + this.id);
    }
    this.idBytes = db.write(op.rowId, this.id);
    this.subkey = this.id + this.idBytes + 1;
    this.subkeyBytes = op.subkey === "" ? 0 : db.write(op.subkey, this.subkey);
    this.end = this.subkey + this.subkeyBytes;
    const heap = db.heap();
    heap[db.scratch + this.subkey - 1] = 0;
    if (op.kind !== "PUT") return;
    heap[db.scratch + this.end] = 0;
    this.data = this.end + 1;
    this.end = this.data + db.write(op.data, this.data);
  }

  /** The checksum of what encode wrote. */
  private checksum(): number {
    const { db } = this.store;
    return fmix32(crc32c(db.heap(), db.scratch + this.id, db.scratch + this.end, this.prefixCrc));
  }

  /** Tells whether there is any version of the row. */
  private found(t: TypeWriter): boolean {
    const { db } = this.store;
    const x = db.exports;
    const s = t.find.pointer;
    x.sqlite3_bind_text(s, 1, db.scratch + this.id, this.idBytes, STATIC);
    const rc = x.sqlite3_step(s);
    x.sqlite3_reset(s);
    if (rc !== SQLITE_DONE && rc !== SQLITE_ROW) db.fail(t.find.sql);
    return rc === SQLITE_ROW;
  }

  /** Inserts the version encode wrote. */
  private insert(b: StoredBucket, t: TypeWriter, op: Op, wave: number): void {
    const { db } = this.store;
    const x = db.exports;
    const s = t.insert.pointer;
    x.sqlite3_bind_text(s, 1, db.scratch + this.id, this.idBytes, STATIC);
    if (t.bucket !== b.id) {
      t.bucket = b.id;
      x.sqlite3_bind_int(s, 2, b.id);
    }
    x.sqlite3_bind_text(s, 3, db.scratch + this.subkey, this.subkeyBytes, STATIC);
    x.sqlite3_bind_int64(s, 4, op.id);
    if (t.wave !== wave) {
      t.wave = wave;
      x.sqlite3_bind_int64(s, 5, BigInt(wave));
    }
    x.sqlite3_bind_int64(s, 6, BigInt(op.checksum));
    if (op.kind === "PUT") x.sqlite3_bind_text(s, 7, db.scratch + this.data, this.end - this.data, STATIC);
    else x.sqlite3_bind_null(s, 7);
    const rc = x.sqlite3_step(s);
    x.sqlite3_reset(s);
    if (rc !== SQLITE_DONE) db.fail(t.insert.sql);
  }

  /** The row has other versions: the staged one this op replaces goes, and a publication decides between the rest. */
  private contested(b: StoredBucket, t: TypeWriter, op: Op): void {
    const { db } = this.store;
    this.prefix = ""; // these statements' texts go there
    waveOf(this.store, b); // a bucket with something staged has a wave
    db.run(`INSERT OR IGNORE INTO mr_touched VALUES (?, ?)`, t.n, op.rowId);
    db.run(`DELETE FROM ${rowsTable(t.n)} WHERE id = ? AND bucket = ? AND subkey = ? AND op_id > ?`, op.rowId, b.id, op.subkey, b.published);
  }
}

/** The wave of what a bucket has staged; given with the first staged version. */
function waveOf(store: Store, b: StoredBucket): number {
  if (b.wave === 0) {
    b.wave = Number(store.db.integer(`UPDATE mr_state SET wave = wave + 1 RETURNING wave`));
    store.db.run(`INSERT INTO mr_waves VALUES (?)`, b.wave);
  }
  return b.wave;
}
