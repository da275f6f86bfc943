import type { Connection, Value } from "../sqlite/connection.js";
import type { OpId } from "../protocol/lines.js";
import { createLocal, createRows, FORMAT, INTERNAL_TABLES, localName } from "./layout.js";

/** How long the log grows, in pages of 8 KiB, before it is copied into the database; and while much is written. */
export const LOG_PAGES = 2_000;
const BULK_LOG_PAGES = 8_000;

/** The cached row of a live bucket. */
export interface StoredBucket {
  readonly id: number;
  readonly name: string;
  position: OpId;
  settled: boolean;
  checksum: number;
  published: OpId;
  cleared: OpId;
  /** Wave of what is staged; 0: nothing is. */
  wave: number;
  /** Ops at the last completion, received since, and at the target; the last is not stored. */
  atLast: number;
  since: number;
  count: number;
}

/** What a transaction changed: types of rows, and whether it was a local write. */
export interface Changes {
  readonly types: readonly string[];
  readonly local: boolean;
}

/**
 * The local database: the internal tables and the one connection. Everything is
 * synchronous; whoever shares a Store takes care that only one user at a time
 * has a transaction open. The parts with their own files are functions of a
 * Store: stage, publish, gate, queue, streams, schema.
 */
export class Store {
  /** Live buckets by name; null: to be loaded. Ahead of the tables inside a transaction. */
  private cached: Map<string, StoredBucket> | null = null;
  private typeIds: Map<string, number> | null = null;
  private durable: boolean | null = null;
  private local = false;
  private bulky = false;
  /** A bulk has left a long log: tidy it. */
  untidy = false;
  /** Told after each commit that changed rows. */
  onChange: (changes: Changes) => void = () => {};

  constructor(
    readonly db: Connection,
    /** Unix milliseconds. */
    readonly clock: () => number,
    newClientId: () => string,
  ) {
    this.write(false, () => {
      db.exec(INTERNAL_TABLES);
      db.run(`INSERT INTO mr_state (one, format, client_id) VALUES (1, ?, ?) ON CONFLICT DO NOTHING`, FORMAT, newClientId());
      // Databases of before custom write checkpoints.
      if (db.integer(`SELECT count(*) FROM pragma_table_info('mr_state') WHERE name = 'custom'`) === 0n) {
        db.exec(`ALTER TABLE mr_state ADD COLUMN custom INTEGER NOT NULL DEFAULT 0`);
      }
    });
    const format = Number(db.integer(`SELECT format FROM mr_state`));
    if (format !== FORMAT) throw new Error(`the database has storage format ${format}, this SDK reads ${FORMAT}: use the SDK that wrote it, or delete the database and sync again`);
  }

  /**
   * Runs fn in a transaction: all of it is committed, or none. durable survives
   * a power cut; otherwise only a crash of the browser.
   */
  write<T>(durable: boolean, fn: () => T): T {
    this.begin(durable, false);
    let out: T;
    try {
      out = fn();
    } catch (e) {
      this.rollback();
      throw e;
    }
    this.commit();
    return out;
  }

  /** A transaction of the app, with a number of its own in the upload queue. */
  localWrite<T>(fn: () => T): T {
    this.beginLocal();
    let out: T;
    try {
      out = fn();
    } catch (e) {
      this.rollback();
      throw e;
    }
    this.commit();
    return out;
  }

  /** Opens a transaction of the app, for callers that cannot run in one go; commit or rollback ends it. */
  beginLocal(): void {
    this.begin(true, true);
    this.db.run(`UPDATE mr_state SET tx = tx + 1`);
  }

  private begin(durable: boolean, local: boolean): void {
    if (this.durable !== durable) {
      this.db.run(`PRAGMA synchronous = ${durable ? "full" : "normal"}`);
      this.durable = durable;
    }
    this.db.run(`BEGIN IMMEDIATE`);
    this.local = local;
  }

  commit(): void {
    let types: string[];
    try {
      types = this.takeChanges();
      this.db.run(`COMMIT`);
    } catch (e) {
      this.rollback();
      throw e;
    }
    if (types.length > 0 || this.local) this.onChange({ types, local: this.local });
  }

  /** Undoes the open transaction; harmless if SQLite has done so by itself. */
  rollback(): void {
    this.cached = null; // may be ahead of the tables
    this.typeIds = null;
    if (!this.db.autocommit) this.db.exec(`ROLLBACK`);
  }

  /**
   * Tells that much is about to be written, or that it is over. Meanwhile the
   * log may grow longer before it is copied into the database: what is written
   * again and again is copied once. The copying then waits for tidy.
   */
  bulk(on: boolean): void {
    if (this.bulky === on) return;
    this.bulky = on;
    this.db.run(`PRAGMA wal_autocheckpoint = ${on ? BULK_LOG_PAGES : LOG_PAGES}`);
    if (!on) this.untidy = true;
  }

  /** Copies what a bulk left in the log. Best called when nobody waits. */
  tidy(): void {
    if (!this.untidy || this.bulky) return;
    this.untidy = false;
    this.db.run(`PRAGMA wal_checkpoint(PASSIVE)`);
  }

  private takeChanges(): string[] {
    const types = this.db.texts(`SELECT type FROM mr_changes`);
    if (types.length > 0) this.db.run(`DELETE FROM mr_changes`);
    return types;
  }

  noteChange(type: string): void {
    this.db.run(`INSERT OR IGNORE INTO mr_changes VALUES (?)`, type);
  }

  /** Live buckets by name. */
  buckets(): Map<string, StoredBucket> {
    if (this.cached === null) {
      this.cached = new Map();
      for (const r of this.db.all(`SELECT id, name, position, settled, checksum, published, cleared, wave, at_last, since FROM mr_buckets WHERE name IS NOT NULL`)) {
        const name = r[1] as string;
        this.cached.set(name, {
          id: Number(r[0]), name, position: big(r[2]), settled: r[3] === 1, checksum: Number(r[4]), published: big(r[5]),
          cleared: big(r[6]), wave: Number(r[7]), atLast: Number(r[8]), since: Number(r[9]), count: 0,
        });
      }
    }
    return this.cached;
  }

  /** Forgets what is cached, as a restart would. */
  forget(): void {
    this.cached = null;
    this.typeIds = null;
  }

  save(b: StoredBucket): void {
    this.db.run(
      `UPDATE mr_buckets SET position = ?, settled = ?, checksum = ?, published = ?, cleared = ?, wave = ?, at_last = ?, since = ? WHERE id = ?`,
      b.position, b.settled, b.checksum, b.published, b.cleared, b.wave, b.atLast, b.since, b.id,
    );
  }

  private types(): Map<string, number> {
    this.typeIds ??= new Map(this.db.all(`SELECT name, id FROM mr_types`).map((r) => [r[0] as string, Number(r[1])]));
    return this.typeIds;
  }

  /** Number of a type's table, which is made where missing. */
  typeId(type: string): number {
    return this.types().get(type) ?? this.newType(type, createRows);
  }

  /** Number of a local-only table, which is made where missing. */
  localId(table: string): number {
    return this.types().get(localName(table)) ?? this.newType(localName(table), createLocal);
  }

  private newType(name: string, create: (n: number) => string): number {
    const n = Number(this.db.integer(`INSERT INTO mr_types (name) VALUES (?) RETURNING id`, name));
    this.db.exec(create(n));
    this.types().set(name, n);
    return n;
  }

  /** Types of synced rows and the numbers of their tables. */
  *rowTypes(): Iterable<[name: string, n: number]> {
    for (const [name, n] of [...this.types()]) if (!name.startsWith("\0")) yield [name, n];
  }

  /** Local-only tables and their numbers. */
  *localTypes(): Iterable<[table: string, n: number]> {
    for (const [name, n] of [...this.types()]) if (name.startsWith("\0")) yield [name.slice(1), n];
  }

  get clientId(): string {
    return String(this.db.row(`SELECT client_id FROM mr_state`)?.[0]);
  }

  close(): void {
    this.db.close();
  }
}

export const big = (v: Value | undefined): bigint => (typeof v === "bigint" ? v : BigInt(v as number));

/** True if the bucket holds anything readers do not see yet. */
export const hasStaged = (b: StoredBucket): boolean => b.position > b.published || b.cleared > 0n;
