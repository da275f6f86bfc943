import { putChecksum } from "../checksum.js";
import { rowsTable } from "./layout.js";
import type { Store } from "./store.js";
import { hasStaged } from "./store.js";

/** What is stored of a bucket. */
export interface BucketInfo {
  readonly name: string;
  /** Everything up to this op is stored, and up to the other one shown. */
  readonly position: bigint;
  readonly published: bigint;
  readonly checksum: number;
  /** Versions of rows stored. */
  readonly rows: number;
  /** Something is stored that is not shown yet. */
  readonly staged: boolean;
}

/** The state of the local database, for people. */
export interface Diagnostics {
  readonly clientId: string;
  readonly sqliteVersion: string;
  /** Op id of the newest complete checkpoint stored, and of the one shown. */
  readonly complete: bigint;
  /** The gate: the write checkpoint waited for, null while none was given, and the one seen. */
  readonly gateTarget: bigint | null;
  readonly gateSeen: bigint;
  readonly buckets: readonly BucketInfo[];
  /** Rows shown, by type. */
  readonly rows: Readonly<Record<string, number>>;
  /** Size of the database, and what of it is free. */
  readonly bytes: number;
  readonly freeBytes: number;
}

export function diagnostics(store: Store): Diagnostics {
  const { db } = store;
  const [target, seen, complete] = (db.row(`SELECT target, seen, complete FROM mr_state`) ?? []).map((v) => BigInt(v as number | bigint));
  const perBucket = new Map<number, number>();
  const rows: Record<string, number> = {};
  for (const [type, n] of store.rowTypes()) {
    for (const [bucket, count] of db.all(`SELECT bucket, count(*) FROM ${rowsTable(n)} WHERE bucket <> 0 GROUP BY bucket`)) {
      perBucket.set(Number(bucket), (perBucket.get(Number(bucket)) ?? 0) + Number(count));
    }
    rows[type] = Number(db.integer(`SELECT count(*) FROM ${rowsTable(n)} WHERE wave NOT IN (SELECT wave FROM mr_waves)`));
  }
  const pageSize = Number(db.integer(`PRAGMA page_size`));
  return {
    clientId: store.clientId,
    sqliteVersion: String(db.row(`SELECT sqlite_version()`)?.[0]),
    complete: complete ?? 0n,
    gateTarget: target === 9223372036854775807n ? null : (target ?? 0n),
    gateSeen: seen ?? 0n,
    buckets: [...store.buckets().values()].map((b) => ({
      name: b.name, position: b.position, published: b.published, checksum: b.checksum, rows: perBucket.get(b.id) ?? 0, staged: hasStaged(b),
    })),
    rows,
    bytes: pageSize * Number(db.integer(`PRAGMA page_count`)),
    freeBytes: pageSize * Number(db.integer(`PRAGMA freelist_count`)),
  };
}

/** Where a walk over everything stored has come to. */
export interface VerifyCursor {
  readonly type: number;
  readonly rowid: bigint;
}

/**
 * Recomputes the checksums of some stored versions after a cursor. Gives the
 * names of buckets that hold one that is wrong, and the next cursor; null at
 * the end.
 */
export function verifySlice(store: Store, from: VerifyCursor | null, limit: number): { readonly bad: readonly string[]; readonly next: VerifyCursor | null } {
  const types = [...store.rowTypes()].filter(([, n]) => from === null || n >= from.type).sort((a, b) => a[1] - b[1]);
  const first = types[0];
  if (first === undefined) return { bad: [], next: null };
  const [type, n] = first;
  const rows = store.db.all(
    `SELECT r.rowid, r.id, r.subkey, r.checksum, r.data, b.name FROM ${rowsTable(n)} r JOIN mr_buckets b ON b.id = r.bucket
     WHERE r.rowid > ? AND r.data IS NOT NULL ORDER BY r.rowid LIMIT ?`,
    from?.type === n ? from.rowid : 0n, limit);
  const bad = new Set<string>();
  for (const [, id, subkey, checksum, data, bucket] of rows) {
    if (bucket === null) continue; // dropped: about to go anyway
    if (putChecksum(type, String(id), String(subkey), String(data)) !== Number(checksum)) bad.add(String(bucket));
  }
  const last = rows.at(-1);
  if (rows.length === limit && last !== undefined) return { bad: [...bad], next: { type: n, rowid: BigInt(last[0] as number | bigint) } };
  const following = types[1];
  return { bad: [...bad], next: following === undefined ? null : { type: following[1], rowid: 0n } };
}
