import type { BucketPosition } from "../protocol/frames.js";
import { localTable, rowsTable } from "./layout.js";
import type { Store } from "./store.js";
import { big } from "./store.js";

/** The live buckets and how far each is stored, for a request. */
export function positions(store: Store): BucketPosition[] {
  const complete = big(store.db.row(`SELECT complete FROM mr_state`)?.[0] ?? 0);
  return [...store.buckets().values()].map((b) => ({ name: b.name, after: b.settled && complete > b.position ? complete : b.position }));
}

/** When everything, and each priority ahead of the rest, was last shown. Unix milliseconds. */
export function syncTimes(store: Store): { readonly full: number | null; readonly partial: ReadonlyMap<number, number>; readonly opId: bigint } {
  let full: number | null = null;
  let opId = 0n;
  const partial = new Map<number, number>();
  for (const [priority, at, op] of store.db.all(`SELECT priority, at, op_id FROM mr_synced`)) {
    if (priority === -1) {
      full = Number(at);
      opId = big(op);
    } else partial.set(Number(priority), Number(at));
  }
  return { full, partial, opId };
}

/** Deletes everything synced and everything waiting for upload. The client id stays; with keepLocal so do local-only rows. */
export function clear(store: Store, keepLocal: boolean): void {
  store.write(true, () => {
    for (const [type, n] of store.rowTypes()) {
      store.noteChange(type);
      store.db.run(`DELETE FROM ${rowsTable(n)}`);
    }
    for (const table of ["mr_buckets", "mr_queue", "mr_rejected", "mr_synced", "mr_streams", "mr_touched"]) store.db.run(`DELETE FROM ${table}`);
    store.db.run(`DELETE FROM mr_waves WHERE wave >= 0`);
    store.db.run(`UPDATE mr_state SET target = 0, seen = 0, complete = 0, pending = 0`);
    if (!keepLocal) {
      for (const [table, n] of store.localTypes()) {
        store.noteChange(table);
        store.db.run(`DELETE FROM ${localTable(n)}`);
      }
    }
    store.forget();
  });
}
