import type { Store } from "./store.js";

/** How many outcomes are remembered: far more than can be under way when the owner changes. */
const KEEP = 1000;

/** Remembers, in the write's own transaction, that it was done. */
export function noteDone(store: Store, key: string, changes: number): void {
  store.db.run(`INSERT INTO mr_done (key, changes) VALUES (?, ?)`, key, changes);
  store.db.run(`DELETE FROM mr_done WHERE n <= (SELECT max(n) FROM mr_done) - ?`, KEEP);
}

/** The changes of a write that was done; null if it was not. */
export function doneChanges(store: Store, key: string): number | null {
  const r = store.db.row(`SELECT changes FROM mr_done WHERE key = ?`, key);
  return r === undefined ? null : Number(r[0]);
}
