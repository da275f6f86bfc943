import type { Subscription } from "../protocol/frames.js";
import { MAX_SUBSCRIPTIONS } from "../protocol/frames.js";
import type { Store } from "./store.js";

/** Identity of a subscribed stream. */
export interface StreamKey {
  readonly name: string;
  /** Canonical text of a JSON object. */
  readonly params: string;
}

/** A JSON text with sorted keys, so that equal parameters are one subscription. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return "[" + value.map(canonicalJson).join(",") + "]";
  if (typeof value === "object" && value !== null) {
    const o = value as Record<string, unknown>;
    const keys = Object.keys(o).filter((k) => o[k] !== undefined).sort();
    return "{" + keys.map((k) => JSON.stringify(k) + ":" + canonicalJson(o[k])).join(",") + "}";
  }
  const text = JSON.stringify(value) as string | undefined;
  if (text === undefined) throw new TypeError("stream parameters must be JSON values");
  return text;
}

/** Remembers a subscription; true if the list of streams is another now. held: someone has it already. */
export function subscribeStream(store: Store, key: StreamKey, priority: number | null, ttl: number, held: boolean): boolean {
  return store.write(true, () => {
    const old = store.db.row(`SELECT priority, expires IS NOT NULL AND expires <= ? FROM mr_streams WHERE name = ? AND params = ?`, store.clock(), key.name, key.params);
    let wanted = priority ?? -1;
    const oldPriority = Number(old?.[0] ?? -1);
    if (held && oldPriority >= 0 && (wanted < 0 || oldPriority < wanted)) wanted = oldPriority; // the most urgent holder's
    store.db.run(
      `INSERT INTO mr_streams (name, params, priority, ttl, expires) VALUES (?, ?, ?, ?, NULL)
       ON CONFLICT (name, params) DO UPDATE SET priority = excluded.priority, ttl = max(ttl, excluded.ttl), expires = NULL`,
      key.name, key.params, wanted, ttl);
    return old === undefined || old[1] === 1 || oldPriority !== wanted;
  });
}

/** Starts the TTL of a stream whose last holder left. */
export function releaseStream(store: Store, key: StreamKey): void {
  store.write(false, () => store.db.run(`UPDATE mr_streams SET expires = ? + ttl WHERE name = ? AND params = ?`, store.clock(), key.name, key.params));
}

/** Forgets streams whose time is over; true if there were any. */
export function expireStreams(store: Store): boolean {
  const now = store.clock();
  if (store.db.row(`SELECT 1 FROM mr_streams WHERE expires <= ? LIMIT 1`, now) === undefined) return false;
  store.write(false, () => store.db.run(`DELETE FROM mr_streams WHERE expires <= ?`, now));
  return true;
}

/** Starts the TTL of streams an earlier process held. */
export function adoptStreams(store: Store): void {
  store.write(false, () => store.db.run(`UPDATE mr_streams SET expires = ? + ttl WHERE expires IS NULL`, store.clock()));
}

/** The list of streams for a request, in a stable order. */
export function streamSelection(store: Store): Subscription[] {
  return store.db
    .all(`SELECT name, params, priority FROM mr_streams WHERE expires IS NULL OR expires > ? ORDER BY rowid LIMIT ?`, store.clock(), MAX_SUBSCRIPTIONS)
    .map((r) => ({ stream: String(r[0]), parameters: r[1] === "{}" ? null : String(r[1]), priority: Number(r[2]) < 0 ? null : Number(r[2]) }));
}
