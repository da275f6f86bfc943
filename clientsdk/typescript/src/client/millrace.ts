import type { ConnectOptions } from "../engine/engine.js";
import { ClosedError, OpenError, TransactionLostError } from "../errors.js";
import { folder, ownerLock } from "../owner/meeting.js";
import { ChannelClosedError } from "../rpc.js";
import type { Schema, Tables } from "../schema.js";
import { checkSchema } from "../schema.js";
import type { Param } from "../sqlite/connection.js";
import type { SyncStatus } from "../status.js";
import { initialStatus, sameStatus } from "../status.js";
import type { Diagnostics } from "../store/diagnostics.js";
import type { RejectedUpload, UploadEntry } from "../store/queue.js";
import type { StreamKey } from "../store/streams.js";
import { canonicalJson } from "../store/streams.js";
import type { Connector } from "./connector.js";
import type { OwnerPeer } from "./link.js";
import { Link } from "./link.js";
import type { AnyRow } from "./rows.js";
import { toRows } from "./rows.js";
import { Listeners } from "./signals.js";
import type { ExecuteResult, UploadTransaction } from "./transaction.js";
import { Transaction } from "./transaction.js";
import type { WatchOptions } from "./watch.js";
import { Watch } from "./watch.js";

/** How long a stream is still synced after its last subscriber left. Milliseconds. */
export const DEFAULT_STREAM_TTL = 24 * 60 * 60 * 1000;

export interface MillraceOptions<T extends Tables = Tables> {
  /** The app's view of its data. */
  readonly schema: Schema<T>;
  /**
   * Name of the database; pages of one origin that use the same name share it.
   * One per user who logs in, unless you clear it in between. "default".
   */
  readonly name?: string;
  /** Starts the SDK's worker, for bundlers that do not understand the default. */
  readonly worker?: () => Worker;
  /** Starts the SDK's broker, a SharedWorker; null: none, pages talk over a BroadcastChannel. */
  readonly broker?: (() => SharedWorker) | null;
  /** Address of sqlite3.wasm, if it is not beside the worker. */
  readonly wasmUrl?: string;
}

export interface SubscribeOptions {
  /** 0 (most urgent) to 3; the rules' own if left out. */
  readonly priority?: 0 | 1 | 2 | 3;
  /** How long the rows stay after the last unsubscribe, also over reloads. Milliseconds; a day if left out. */
  readonly ttl?: number;
}

/** An interest in a stream, held until unsubscribe. */
export interface StreamSubscription {
  readonly name: string;
  /** Waits until the stream's rows are there, as far as the server grants them. */
  waitForFirstSync(signal?: AbortSignal): Promise<void>;
  /** Ends the interest; the last holder's leaving starts the TTL. */
  unsubscribe(): Promise<void>;
}

interface Held {
  readonly key: StreamKey;
  readonly priority: number | null;
  readonly ttl: number;
  holders: number;
  version: number;
}

/**
 * A local database, in sync while connected. Everything may be called at once:
 * it waits for the database to be open.
 */
export class Millrace<T extends Tables = Tables> {
  /** Name of the database. */
  readonly name: string;
  private schema: Schema;
  private readonly link: Link;
  private connector: Connector | null = null;
  /** The last call of connect. */
  private connecting: { readonly id: string; readonly options: ConnectOptions } | null = null;
  /** The database's pages want to be connected. */
  private wanted = false;
  private snapshot: SyncStatus = initialStatus;
  private id = "";
  private closed = false;
  private readonly statusListeners = new Listeners<SyncStatus>();
  private readonly changeListeners = new Listeners<readonly string[] | null>();
  private readonly streams = new Map<string, Held>();

  constructor(options: MillraceOptions<T>) {
    checkSchema(options.schema);
    this.name = options.name ?? "default";
    this.schema = options.schema;
    const hasShared = typeof SharedWorker !== "undefined";
    this.link = new Link(
      {
        db: this.name,
        startWorker: options.worker ?? (() => new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "millrace" })),
        startBroker:
          options.broker === undefined
            ? hasShared ? () => new SharedWorker(new URL("./broker.js", import.meta.url), { type: "module", name: "millrace-broker" }) : null
            : options.broker,
        wasmUrl: options.wasmUrl,
      },
      {
        page: {
          credentials: async (signal) => (await this.connector?.fetchCredentials(signal)) ?? null,
          upload: async (signal) => {
            if (this.connector === null) throw new Error("this page has no connector");
            await this.connector.uploadData(this as unknown as Millrace, signal);
          },
        },
        event: (e) => {
          if (e.type === "changes") return this.changeListeners.tell(e.types);
          this.wanted = e.wanted;
          this.setStatus(e.status);
        },
        greet: (peer) => this.greet(peer),
      },
    );
  }

  /** Tells a new owner what this page has asked of the one before. */
  private async greet(peer: OwnerPeer): Promise<void> {
    const held = [...this.streams.values()];
    const streams = held.map(({ key, priority, ttl }) => ({ key, priority, ttl }));
    for (const h of held) h.version = Infinity; // each owner counts from the start
    const { clientId, versions } = await peer.call("hello", [this.link.tab, this.schema, { streams, connect: this.wanted ? this.connecting : null }]);
    this.id = clientId;
    for (const [i, h] of held.entries()) h.version = versions[i] ?? Infinity;
    this.statusListeners.tell(this.snapshot); // for those who wait for a version
    this.changeListeners.tell(null);
  }

  /** Resolves when the database is open; rejects with an OpenError if it cannot be. */
  async ready(signal?: AbortSignal): Promise<void> {
    await this.link.current(signal);
  }

  /** The device's random name, made with the database. */
  async clientId(): Promise<string> {
    await this.ready();
    return this.id;
  }

  /** True while the worker of this page owns the database, and does the work for all pages. */
  get isOwner(): boolean {
    return this.link.isOwner;
  }

  // Reading and writing

  /** Reads. */
  async getAll<R = AnyRow>(sql: string, params: readonly Param[] = [], signal?: AbortSignal): Promise<R[]> {
    this.check();
    return toRows<R>(await this.link.call("query", [sql, params], true, signal));
  }

  /** The first row, null if there is none. */
  async get<R = AnyRow>(sql: string, params: readonly Param[] = [], signal?: AbortSignal): Promise<R | null> {
    return (await this.getAll<R>(sql, params, signal))[0] ?? null;
  }

  /** Runs one statement in a transaction of its own. It is done once, also if the page that does the work changes meanwhile. */
  async execute<R = AnyRow>(sql: string, params: readonly Param[] = []): Promise<ExecuteResult<R>> {
    return this.executeAll<R>([{ sql, params }]);
  }

  /** Runs statements in one transaction, in one go: quicker than `transaction`, if no result decides what comes next. Gives the last one's result. */
  async executeAll<R = AnyRow>(statements: readonly { readonly sql: string; readonly params?: readonly Param[] }[]): Promise<ExecuteResult<R>> {
    this.check();
    const calls = statements.map((s) => ({ sql: s.sql, params: s.params ?? [] }));
    const r = await this.link.call("execute", [crypto.randomUUID(), calls], true);
    return { changes: r.changes, rows: toRows<R>(r) };
  }

  /**
   * Runs fn in a write transaction: everything it writes is committed together,
   * uploaded as one, and shown together. If fn throws, nothing is written.
   * A {@link TransactionLostError} means the same, and may be tried again.
   */
  async transaction<R>(fn: (tx: Transaction) => Promise<R>): Promise<R> {
    this.check();
    const peer = await this.link.current();
    const key = crypto.randomUUID();
    let committing = false;
    let out: R;
    try {
      const id = await peer.call("begin", []);
      try {
        out = await fn(new Transaction(peer, id));
      } catch (e) {
        await peer.call("rollback", [id]).catch(() => {}); // gone already: as good
        throw e;
      }
      committing = true;
      await peer.call("commit", [id, key]);
      return out;
    } catch (e) {
      if (!(e instanceof ChannelClosedError)) throw e;
      // The owner went away in between: the next one knows whether it was done.
      if (committing && (await this.link.call("wasDone", [key], true))) return out!;
      throw new TransactionLostError("the page that owned the database was closed; nothing of the transaction was written");
    }
  }

  /** A live query; iterate over it or subscribe to it. */
  watch<R = AnyRow>(sql: string, params: readonly Param[] = [], options: WatchOptions = {}): Watch<R> {
    this.check();
    return new Watch<R>(
      {
        run: (signal) => this.getAll<R>(sql, params, signal),
        tables: (signal) => this.link.call("tablesOf", [sql], true, signal),
        onChange: (fn) => this.changeListeners.add(fn),
      },
      options,
    );
  }

  /** Calls whenever rows were changed, locally or by the server, with their types; null: perhaps of all. Gives the undo. */
  onChange(fn: (types: readonly string[] | null) => void): () => void {
    return this.changeListeners.add(fn);
  }

  /** Replaces the views by those of another schema. No data moves. */
  async updateSchema(schema: Schema): Promise<void> {
    checkSchema(schema);
    this.schema = schema;
    await this.link.call("updateSchema", [schema], true);
    this.changeListeners.tell(null);
  }

  // Being in sync

  /**
   * Begins to keep the database in sync, until disconnect, over reconnects. It
   * does not wait for the server: see `status`. Called again, it replaces the
   * connection. All pages of the database share it; a page that asks for one
   * that is there already, with the same options, only offers its connector.
   */
  async connect(connector: Connector, options: ConnectOptions = {}): Promise<void> {
    this.check();
    this.connector = connector;
    this.connecting = { id: crypto.randomUUID(), options };
    this.wanted = true;
    await this.link.call("connect", [this.connecting.id, options], true);
  }

  /** Stops keeping the database in sync, for all its pages. Data and upload queue stay. */
  async disconnect(): Promise<void> {
    this.wanted = false;
    await this.link.call("disconnect", [], true);
  }

  /** Ends a wait between tries, for apps that learn that the network is back. */
  async reconnect(): Promise<void> {
    await this.link.call("reconnect", [], true);
  }

  /**
   * For a user who logs out: disconnects and deletes everything synced, the
   * upload queue and the subscriptions; what was not uploaded is lost. Rows of
   * local-only tables go too unless keepLocal.
   */
  async disconnectAndClear(options: { readonly keepLocal?: boolean } = {}): Promise<void> {
    this.wanted = false;
    this.streams.clear();
    await this.link.call("clear", [options.keepLocal === true], true);
  }

  /** The present status: a new object whenever something has changed. */
  get status(): SyncStatus {
    return this.snapshot;
  }

  /** Calls with each status, beginning with the next. Gives the undo. */
  onStatus(fn: (status: SyncStatus) => void): () => void {
    return this.statusListeners.add(fn);
  }

  /** Waits until the status satisfies a condition. */
  waitFor(condition: (status: SyncStatus) => boolean, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(signal.reason as Error);
      if (condition(this.snapshot)) return resolve();
      const end = (): void => {
        undo();
        signal?.removeEventListener("abort", cancel);
      };
      const cancel = (): void => {
        end();
        reject(signal?.reason as Error);
      };
      signal?.addEventListener("abort", cancel);
      const undo = this.onStatus((s) => {
        if (!condition(s)) return;
        end();
        resolve();
      });
    });
  }

  /** Waits until everything was there once. On a device that has synced before it returns at once, also offline. */
  async waitForFirstSync(signal?: AbortSignal): Promise<void> {
    await this.ready(signal);
    await this.waitFor((s) => s.hasSynced, signal);
  }

  private setStatus(s: SyncStatus): void {
    if (sameStatus(s, this.snapshot)) return;
    this.snapshot = s;
    this.statusListeners.tell(s);
  }

  // Streams

  /**
   * Subscribes to a stream of the sync rules with parameters, JSON values. It is
   * remembered in the database: offline and after a reload its rows are there.
   */
  async subscribe(name: string, params: Readonly<Record<string, unknown>> = {}, options: SubscribeOptions = {}): Promise<StreamSubscription> {
    this.check();
    const key = { name, params: canonicalJson(params) };
    const id = name + "\0" + key.params;
    const held = this.streams.get(id) ?? { key, priority: options.priority ?? null, ttl: options.ttl ?? DEFAULT_STREAM_TTL, holders: 0, version: 0 };
    this.streams.set(id, held);
    held.holders++;
    try {
      held.version = await this.link.call("subscribe", [key, options.priority ?? null, held.ttl], true);
    } catch (e) {
      this.letGo(id, held);
      throw e;
    }
    let over = false;
    return {
      name,
      waitForFirstSync: (signal) => this.waitFor((s) => s.coveredStreams >= held.version, signal),
      unsubscribe: async () => {
        if (over) return;
        over = true;
        if (this.letGo(id, held)) await this.link.call("unsubscribe", [key], true);
      },
    };
  }

  private letGo(id: string, held: Held): boolean {
    held.holders--;
    if (held.holders > 0 || this.streams.get(id) !== held) return false;
    this.streams.delete(id);
    return true;
  }

  // Uploads

  /** The oldest transaction of the upload queue, null if it is empty. It stays queued until complete or reject. */
  async nextTransaction(): Promise<UploadTransaction | null> {
    const t = await this.link.call("nextTransaction", [], true);
    if (t === null) return null;
    return {
      ...t,
      complete: async (writeCheckpoint) => this.link.call("completeUpload", writeCheckpoint === undefined ? [t.id] : [t.id, BigInt(writeCheckpoint)], true),
      reject: (reason) => this.link.call("rejectUpload", [t.id, reason], true),
    };
  }

  /** What waits for upload, oldest first, with the attempts made and the last error of each. */
  async uploadQueue(limit = 1000): Promise<readonly UploadEntry[]> {
    return this.link.call("uploadQueue", [limit], true);
  }

  /** What backends refused for good, newest first. */
  async rejectedUploads(limit = 1000): Promise<readonly RejectedUpload[]> {
    return this.link.call("rejectedUploads", [limit], true);
  }

  /** Deletes a rejected entry. */
  async forgetRejected(number: bigint): Promise<void> {
    await this.link.call("forgetRejected", [number], true);
  }

  // Care

  /** Recomputes the checksums of everything stored. Gives the buckets found wrong; they, and only they, are downloaded again. */
  async verify(signal?: AbortSignal): Promise<readonly string[]> {
    return this.link.call("verify", [], true, signal);
  }

  /** The state of the local database, for people. */
  async diagnostics(): Promise<Diagnostics> {
    return this.link.call("diagnostics", [], true);
  }

  /**
   * Asks the browser not to delete the database when storage runs low; true if
   * it agrees. Some browsers ask the user.
   */
  async persist(): Promise<boolean> {
    return navigator.storage.persist();
  }

  /** Closes this page's part. Another page's worker takes the database over, if there is one. */
  async close(): Promise<void> {
    this.closed = true;
    await this.link.close();
  }

  /**
   * Deletes the database of a name with everything in it, also what was not
   * uploaded. For one that cannot be opened any more; fails while a page has it
   * open.
   */
  static async delete(name: string): Promise<void> {
    await navigator.locks.request(ownerLock(name), { ifAvailable: true }, async (lock) => {
      if (lock === null) throw new OpenError(`the local database ${name} is open in a page: close it first`);
      const root = await navigator.storage.getDirectory();
      await root.removeEntry(folder(name), { recursive: true }).catch((e: unknown) => {
        if (!(e instanceof DOMException && e.name === "NotFoundError")) throw e;
      });
    });
  }

  private check(): void {
    if (this.closed) throw new ClosedError();
  }
}
