import { OPEN_TARGET } from "./layout.js";
import type { Store } from "./store.js";
import { big } from "./store.js";

/** What the upload half needs to know of the queue and the gate. */
export interface GateState {
  /** Entries waiting for upload, the first one's number (0: none), and the newest one's ever. */
  readonly queued: number;
  readonly head: bigint;
  readonly last: bigint;
  /** Local writes were uploaded, or are to be, that no write checkpoint was asked for yet. */
  readonly unacknowledged: boolean;
}

/**
 * Tells whether the newest validated completion contains every local write:
 * nothing waits for upload, and the write checkpoint asked for after the last
 * upload has been seen.
 */
export function gateOpen(store: Store): boolean {
  return store.db.integer(`SELECT target <= seen AND NOT EXISTS (SELECT 1 FROM mr_queue) FROM mr_state`) === 1n;
}

const LAST = `(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'mr_queue')`;

export function gateState(store: Store): GateState {
  const r = store.db.row(`SELECT (SELECT count(*) FROM mr_queue), (SELECT coalesce(min(id), 0) FROM mr_queue), ${LAST}, target = ${OPEN_TARGET} FROM mr_state`) ?? [];
  return { queued: Number(r[0]), head: big(r[1]), last: big(r[2]), unacknowledged: r[3] === 1 };
}

/**
 * Stores the write checkpoint that covers everything written locally up to
 * queue entry last, if one is waited for at all. Ignored, giving false, if
 * something was written since: that write needs a later one. Nor does it take
 * the place of a greater number of the backend, which is asked for anew like any
 * other: a server that has custom write checkpoints answers with what it has,
 * which may be less.
 */
export function setTarget(store: Store, id: bigint, last: bigint): boolean {
  return store.write(true, () =>
    store.db.run(`UPDATE mr_state SET (target, custom) = (CASE WHEN ${OWN} THEN max(target, ?1) ELSE ?1 END, ${OWN} AND target >= ?1)
      WHERE target > seen AND NOT EXISTS (SELECT 1 FROM mr_queue) AND ${LAST} = ?2`, id, last) === 1);
}

/** The target is the backend's number. */
const OWN = `custom AND target < ${OPEN_TARGET}`;
