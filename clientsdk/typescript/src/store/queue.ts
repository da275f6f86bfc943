import type { Value } from "../sqlite/connection.js";
import { OPEN_TARGET } from "./layout.js";
import type { Store } from "./store.js";
import { big } from "./store.js";

/** PUT: inserted, data holds the non-null columns. PATCH: updated, the changed ones. DELETE: no data. */
export type UploadKind = "PUT" | "PATCH" | "DELETE";

/** One written row, as a backend gets it. */
export interface UploadOp {
  readonly op: UploadKind;
  /** Table. */
  readonly type: string;
  readonly id: string;
  readonly data?: Readonly<Record<string, string | number | null>>;
}

/** A queued op and the history of sending it. */
export interface UploadEntry extends UploadOp {
  /** Place in the queue, never used twice, and number of its local transaction. */
  readonly number: bigint;
  readonly transaction: bigint;
  /** Failed uploads so far, the newest one's error, and when that was. */
  readonly attempts: number;
  readonly lastError: string | null;
  readonly lastAttempt: Date | null;
}

/** A written row the backend refused for good. */
export interface RejectedUpload extends UploadOp {
  readonly number: bigint;
  readonly transaction: bigint;
  readonly reason: string;
  readonly at: Date;
}

/** Bounds the kept rejected entries; the oldest go first. */
const MAX_REJECTED = 10_000;

function uploadOp(op: Value | undefined, type: Value | undefined, id: Value | undefined, data: Value | undefined): UploadOp {
  const out = { op: op as UploadKind, type: String(type), id: String(id) };
  return typeof data === "string" ? { ...out, data: JSON.parse(data) as Record<string, string | number | null> } : out;
}



/** The oldest transaction of the queue. */
export function nextTransaction(store: Store): { readonly id: bigint; readonly ops: readonly UploadOp[] } | null {
  const rows = store.db.all(`SELECT tx, op, type, row_id, data FROM mr_queue WHERE tx = (SELECT tx FROM mr_queue ORDER BY id LIMIT 1) ORDER BY id`);
  const first = rows[0];
  return first === undefined ? null : { id: big(first[0]), ops: rows.map((r) => uploadOp(r[1], r[2], r[3], r[4])) };
}

/** What waits for upload, oldest first. */
export function uploadQueue(store: Store, limit: number): UploadEntry[] {
  return store.db
    .all(`SELECT id, tx, op, type, row_id, data, attempts, last_error, last_attempt FROM mr_queue ORDER BY id LIMIT ?`, limit)
    .map((r) => ({
      ...uploadOp(r[2], r[3], r[4], r[5]), number: big(r[0]), transaction: big(r[1]), attempts: Number(r[6]),
      lastError: r[7] as string | null, lastAttempt: r[8] === null ? null : new Date(Number(r[8])),
    }));
}

/** How many entries wait. */
export const pendingUploads = (store: Store): number => Number(store.db.integer(`SELECT count(*) FROM mr_queue`));

/**
 * Takes a transaction out of the queue: the backend has accepted it. Twice is
 * harmless. If that empties the queue, the gate waits for the number, which the
 * backend gave; without, one is to be asked for.
 */
export function completeUpload(store: Store, tx: bigint, writeCheckpoint?: bigint): void {
  if (writeCheckpoint !== undefined && (writeCheckpoint <= 0n || writeCheckpoint >= OPEN_TARGET)) {
    throw new Error(`complete: the write checkpoint is ${writeCheckpoint}, it must be from 1 to ${OPEN_TARGET - 1n}`);
  }
  store.write(true, () => {
    const there = store.db.run(`DELETE FROM mr_queue WHERE tx = ?`, tx) > 0;
    if (there && writeCheckpoint !== undefined) {
      store.db.run(`UPDATE mr_state SET target = ?, custom = 1 WHERE NOT EXISTS (SELECT 1 FROM mr_queue)`, writeCheckpoint);
    }
  });
}

/** Takes a transaction out of the queue because the backend will never accept it, and keeps it aside. */
export function rejectUpload(store: Store, tx: bigint, reason: string): void {
  store.write(true, () => {
    store.db.run(`INSERT OR REPLACE INTO mr_rejected (id, tx, op, type, row_id, data, reason, at)
      SELECT id, tx, op, type, row_id, data, ?, ? FROM mr_queue WHERE tx = ?`, reason, store.clock(), tx);
    store.db.run(`DELETE FROM mr_rejected WHERE id <= (SELECT max(id) FROM mr_rejected) - ?`, MAX_REJECTED);
    store.db.run(`DELETE FROM mr_queue WHERE tx = ?`, tx);
  });
}

/** Rejected entries, newest first. */
export function rejectedUploads(store: Store, limit: number): RejectedUpload[] {
  return store.db
    .all(`SELECT id, tx, op, type, row_id, data, reason, at FROM mr_rejected ORDER BY id DESC LIMIT ?`, limit)
    .map((r) => ({ ...uploadOp(r[2], r[3], r[4], r[5]), number: big(r[0]), transaction: big(r[1]), reason: String(r[6]), at: new Date(Number(r[7])) }));
}

export function forgetRejected(store: Store, number: bigint): void {
  store.write(true, () => store.db.run(`DELETE FROM mr_rejected WHERE id = ?`, number));
}

/** Notes a failed upload on the entries of the oldest transaction. */
export function noteFailure(store: Store, error: Error): void {
  const text = error.message.length > 1000 ? error.message.slice(0, 1000) + "…" : error.message;
  store.write(false, () =>
    store.db.run(`UPDATE mr_queue SET attempts = attempts + 1, last_error = ?, last_attempt = ? WHERE tx = (SELECT tx FROM mr_queue ORDER BY id LIMIT 1)`, text, store.clock()));
}
