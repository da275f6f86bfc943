import type { Bucket, OpId } from "../protocol/lines.js";
import { FULL_PRIORITY, HIDDEN, rowsTable } from "./layout.js";
import { gateOpen } from "./gate.js";
import type { Store, StoredBucket } from "./store.js";
import { big, hasStaged } from "./store.js";

/** A checkpoint the server has sent everything of: all of it, or its buckets up to a priority. */
export interface Completion {
  readonly opId: OpId;
  readonly writeCheckpoint: bigint;
  /** The ones covered. */
  readonly buckets: readonly Bucket[];
  readonly full: boolean;
  /** Of a partial one. */
  readonly priority: number;
}

/** What became of a completion. */
export interface Outcome {
  /** Buckets whose sum differs from the server's; nothing else happened then. */
  readonly bad: readonly string[];
  /** Readers see the checkpoint now. Otherwise it is stored, and waits for the gate. */
  readonly published: boolean;
}

/** Checks a completion and publishes it if the gate is open. */
export function complete(store: Store, c: Completion): Outcome {
  return store.write(false, () => {
    const buckets = store.buckets();
    const bad = c.buckets.filter((b) => buckets.get(b.name)?.checksum !== b.checksum).map((b) => b.name);
    if (bad.length > 0) return { bad, published: false };
    if (c.full) settle(store, c);
    if (!gateOpen(store) && (c.full || c.priority > 0)) return { bad, published: false };
    const staged = c.buckets.map((b) => buckets.get(b.name)).filter((b): b is StoredBucket => b !== undefined && hasStaged(b));
    publish(store, staged, c.full, c.priority, c.opId);
    return { bad, published: true };
  });
}

/** Records a validated full completion. */
function settle(store: Store, c: Completion): void {
  for (const u of c.buckets) {
    const b = store.buckets().get(u.name);
    if (b === undefined || (b.settled && b.since === 0 && b.atLast === u.count)) continue;
    b.settled = true;
    b.atLast = u.count;
    b.since = 0;
    store.save(b);
  }
  store.db.run(`UPDATE mr_state SET complete = ?, seen = ?, pending = 1`, c.opId, c.writeCheckpoint);
}

/** Publishes the completion that waits for the gate, if there is one and the gate is open now. */
export function publishPending(store: Store): boolean {
  return store.write(false, () => {
    const [pending, opId] = store.db.row(`SELECT pending, complete FROM mr_state`) ?? [0, 0];
    if (pending !== 1 || !gateOpen(store)) return false;
    publish(store, [...store.buckets().values()].filter(hasStaged), true, 0, big(opId));
    return true;
  });
}

/**
 * Makes readers see what the given buckets have staged. Versions whose row has
 * no other become visible by their wave's end; for touched rows the version
 * with the greatest op id wins, an own write over all. A full publication also
 * ends the rows of dropped buckets and the own writes, which the server's state
 * contains now; a partial one leaves both as they are.
 */
function publish(store: Store, staged: readonly StoredBucket[], full: boolean, priority: number, upTo: OpId): void {
  const { db } = store;
  if (full) endDropped(store);
  for (const b of staged) {
    if (b.cleared > 0n) endCleared(store, b);
    noteStagedTypes(store, b);
    if (b.wave !== 0) db.run(`DELETE FROM mr_waves WHERE wave = ?`, b.wave);
    b.published = b.position;
    b.wave = 0;
    store.save(b);
  }
  for (const n of touchedTypes(store)) decide(store, n, full);
  db.run(`INSERT INTO mr_synced (priority, op_id, at) VALUES (?, ?, ?) ON CONFLICT (priority) DO UPDATE SET op_id = excluded.op_id, at = excluded.at`,
    full ? FULL_PRIORITY : priority, upTo, store.clock());
  if (full) db.run(`UPDATE mr_state SET pending = 0`);
}

function endDropped(store: Store): void {
  const { db } = store;
  if (db.row(`SELECT 1 FROM mr_buckets WHERE name IS NULL LIMIT 1`) === undefined) return;
  const dropped = `bucket IN (SELECT id FROM mr_buckets WHERE name IS NULL)`;
  for (const [, n] of store.rowTypes()) {
    db.run(`INSERT OR IGNORE INTO mr_touched SELECT ${n}, id FROM ${rowsTable(n)} WHERE ${dropped}`);
    db.run(`DELETE FROM ${rowsTable(n)} WHERE ${dropped}`);
  }
  db.run(`DELETE FROM mr_buckets WHERE name IS NULL`);
}

function endCleared(store: Store, b: StoredBucket): void {
  const { db } = store;
  for (const [, n] of store.rowTypes()) {
    db.run(`INSERT OR IGNORE INTO mr_touched SELECT ${n}, id FROM ${rowsTable(n)} WHERE bucket = ? AND op_id <= ?`, b.id, b.cleared);
    db.run(`DELETE FROM ${rowsTable(n)} WHERE bucket = ? AND op_id <= ?`, b.id, b.cleared);
  }
  b.cleared = 0n;
}

/** Tells watchers of the types a bucket has staged; those of touched rows are told of anyway. */
function noteStagedTypes(store: Store, b: StoredBucket): void {
  if (b.wave === 0) return;
  for (const [type, n] of store.rowTypes()) {
    const any = store.db.row(`SELECT 1 FROM ${rowsTable(n)} WHERE bucket = ? AND wave = ? LIMIT 1`, b.id, b.wave);
    if (any !== undefined) store.noteChange(type);
  }
}

function touchedTypes(store: Store): number[] {
  return store.db.all(`SELECT DISTINCT type FROM mr_touched`).map((r) => Number(r[0]));
}

/** Decides between the versions of the touched rows of one type. */
function decide(store: Store, n: number, full: boolean): void {
  const { db } = store;
  const t = rowsTable(n);
  const touched = `SELECT id FROM mr_touched WHERE type = ${n}`;
  db.run(`INSERT OR IGNORE INTO mr_changes SELECT name FROM mr_types WHERE id = ?`, n);
  if (full) db.run(`DELETE FROM ${t} WHERE id IN (${touched}) AND bucket = 0`);
  db.run(`DELETE FROM ${t} WHERE rowid IN (
    SELECT r.rowid FROM mr_touched c CROSS JOIN ${t} r ON r.id = c.id JOIN mr_buckets b ON b.id = r.bucket
    WHERE c.type = ${n} AND r.op_id <= b.published AND (r.data IS NULL OR EXISTS (
      SELECT 1 FROM ${t} x WHERE x.id = r.id AND x.bucket = r.bucket AND x.subkey = r.subkey AND x.op_id > r.op_id AND x.op_id <= b.published)))`);
  db.run(`UPDATE ${t} SET wave = ${HIDDEN} WHERE wave <> ${HIDDEN} AND rowid IN (
    SELECT r.rowid FROM mr_touched c CROSS JOIN ${t} r ON r.id = c.id LEFT JOIN mr_buckets b ON b.id = r.bucket
    WHERE c.type = ${n} AND (r.bucket = 0 OR r.op_id <= b.published))`);
  db.run(`UPDATE ${t} SET wave = 0 WHERE data IS NOT NULL AND rowid IN (
    SELECT (SELECT r.rowid FROM ${t} r LEFT JOIN mr_buckets b ON b.id = r.bucket
            WHERE r.id = c.id AND (r.bucket = 0 OR r.op_id <= b.published)
            ORDER BY r.bucket = 0 DESC, r.op_id DESC, r.bucket DESC LIMIT 1)
    FROM mr_touched c WHERE c.type = ${n})`);
  db.run(`DELETE FROM mr_touched WHERE type = ${n} AND NOT EXISTS (
    SELECT 1 FROM ${t} r LEFT JOIN mr_buckets b ON b.id = r.bucket WHERE r.id = mr_touched.id AND (r.bucket = 0 OR r.op_id > b.published))`);
}
