import type { ConnectOptions, EngineConnector } from "../engine/engine.js";
import { Engine, syncedStatus } from "../engine/engine.js";
import { Turn, pause } from "../engine/turn.js";
import { TransactionLostError } from "../errors.js";
import type { Channel, Handler, OwnerApi, OwnerEvent, PageApi, Resumed, StatementCall, WriteResult } from "../rpc.js";
import { Peer } from "../rpc.js";
import type { Schema } from "../schema.js";
import { checkSchema } from "../schema.js";
import type { Columns, Connection, Param } from "../sqlite/connection.js";
import type { SyncStatus } from "../status.js";
import { initialStatus, sameStatus } from "../status.js";
import type { VerifyCursor } from "../store/diagnostics.js";
import { diagnostics, verifySlice } from "../store/diagnostics.js";
import { doneChanges, noteDone } from "../store/done.js";
import { clear } from "../store/positions.js";
import { completeUpload, forgetRejected, nextTransaction, pendingUploads, rejectedUploads, rejectUpload, uploadQueue } from "../store/queue.js";
import { dropBad } from "../store/stage.js";
import { Store } from "../store/store.js";
import type { StreamKey } from "../store/streams.js";
import { adoptStreams, expireStreams, releaseStream, subscribeStream } from "../store/streams.js";
import { tablesOf } from "../store/tables.js";
import { applySchema } from "../store/views.js";

/** An interactive transaction that says nothing for so long is rolled back: everybody else waits for it. */
const TRANSACTION_IDLE = 10_000;
/** Rows a query may return. */
const MAX_ROWS = 1_000_000;
/** Versions checked between two pauses of verify. */
const VERIFY_SLICE = 2_000;

/** A page that is served. */
class Client {
  /** It has said hello: it is told what happens. */
  greeted = false;
  readonly streams = new Map<string, StreamKey>();
  /** It called connect, and answers for credentials and uploads. */
  connects = false;
  transaction: Transaction | null = null;
  peer!: Peer<PageApi, OwnerApi>;
}

interface Transaction {
  readonly id: number;
  readonly end: () => void;
  idle: ReturnType<typeof setTimeout>;
}

/** The one owner of an open database: serves pages, and keeps it in sync. */
export class Owner {
  private readonly store: Store;
  private readonly turn = new Turn();
  private readonly clients = new Set<Client>();
  private engine: Engine | null = null;
  /** The app wants to be connected. */
  private wanted = false;
  /** A page of this owner has said whether to be connected: what pages wanted of the owner before no longer counts. */
  private told = false;
  /** Who made the present connection, by which call, and with which options. */
  private connection: { readonly by: Client; readonly id: string; readonly made: string } | null = null;
  private changing: Promise<unknown> = Promise.resolve();
  private status: SyncStatus;
  private streamsVersion = 1;
  private transactions = 0;
  private closed = false;

  constructor(db: Connection, persistent: boolean) {
    this.store = new Store(db, () => Date.now(), () => crypto.randomUUID());
    adoptStreams(this.store);
    this.status = { ...initialStatus, persistent, pendingUploads: pendingUploads(this.store), ...syncedStatus(this.store) };
    this.store.onChange = ({ types, local }) => {
      if (types.length > 0) this.broadcast({ type: "changes", types });
      if (local || this.status.pendingUploads > 0) this.report({ pendingUploads: pendingUploads(this.store) });
      if (local) this.engine?.wake();
    };
  }

  /** Serves a page until gone ends. */
  serve(channel: Channel, tabGone?: Promise<void>): void {
    const client = new Client();
    client.peer = new Peer<PageApi, OwnerApi>(channel, this.handler(client), undefined, () => this.leave(client));
    this.clients.add(client);
    void tabGone?.then(() => this.leave(client));
  }

  /** Forgets a page. */
  private leave(client: Client): void {
    if (!this.clients.delete(client)) return;
    client.peer.close();
    this.endTransaction(client, "undo");
    for (const key of client.streams.values()) void this.turn.run(() => this.release(key));
    if (client.connects && ![...this.clients].some((c) => c.connects)) void this.stopEngine(this.wanted);
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.stopEngine(this.wanted); // the next owner goes on
    for (const c of [...this.clients]) this.leave(c);
    await this.turn.run(() => this.store.close());
  }

  private broadcast(event: OwnerEvent): void {
    for (const c of this.clients) if (c.greeted) c.peer.send(event);
  }

  private statusEvent(): OwnerEvent {
    return { type: "status", status: this.status, wanted: this.wanted };
  }

  private report(change: Partial<SyncStatus>): void {
    const next = { ...this.status, ...change };
    if (sameStatus(next, this.status)) return;
    this.status = next;
    this.broadcast(this.statusEvent());
  }

  private handler(client: Client): Handler<OwnerApi> {
    const { store, turn } = this;
    return {
      hello: (_, __, schema, resumed) => this.hello(client, schema, resumed),
      query: (_, sql, params) => turn.run(() => this.query(sql, params)),
      execute: (_, key, statements) => turn.run(() => this.execute(key, statements)),
      begin: () => this.begin(client),
      statement: (_, tx, sql, params) => this.statement(client, tx, sql, params),
      commit: (_, tx, key) => {
        this.transaction(client, tx);
        try {
          noteDone(store, key, 0);
          store.commit();
        } catch (e) {
          this.endTransaction(client, "undo");
          throw e;
        }
        this.endTransaction(client, "committed");
      },
      rollback: (_, tx) => {
        this.transaction(client, tx);
        this.endTransaction(client, "undo");
      },
      wasDone: (_, key) => turn.run(() => doneChanges(store, key) !== null),
      tablesOf: (_, sql) => turn.run(() => tablesOf(store, sql)),
      connect: (_, id, options) => {
        this.told = true;
        return this.startEngine(client, id, options, false);
      },
      disconnect: () => {
        this.told = true;
        return this.stopEngine(false);
      },
      reconnect: () => this.engine?.retryNow(),
      clear: async (_, keepLocal) => {
        this.told = true;
        await this.stopEngine(false);
        await turn.run(() => clear(store, keepLocal));
        this.streamsVersion++;
        this.report({ ...syncedStatus(store), held: false, coveredStreams: 0, pendingUploads: 0 });
      },
      nextTransaction: () => turn.run(() => nextTransaction(store)),
      completeUpload: (_, tx, writeCheckpoint) => turn.run(() => this.afterQueue(() => completeUpload(store, tx, writeCheckpoint))),
      rejectUpload: (_, tx, reason) => turn.run(() => this.afterQueue(() => rejectUpload(store, tx, reason))),
      uploadQueue: (_, limit) => turn.run(() => uploadQueue(store, limit)),
      rejectedUploads: (_, limit) => turn.run(() => rejectedUploads(store, limit)),
      forgetRejected: (_, number) => turn.run(() => forgetRejected(store, number)),
      subscribe: (_, key, priority, ttl) => turn.run(() => this.subscribe(client, key, priority, ttl)),
      unsubscribe: (_, key) =>
        turn.run(() => {
          if (client.streams.delete(streamId(key))) this.release(key);
        }),
      updateSchema: (_, schema) => turn.run(() => this.applySchema(schema)),
      verify: (signal) => this.verify(signal),
      diagnostics: () => turn.run(() => diagnostics(store)),
    };
  }

  /**
   * The status goes as an event, like all that follow it, and not with the
   * answer: an answer may be overtaken by an event that is newer.
   */
  private async hello(client: Client, schema: Schema, resumed: Resumed): Promise<{ clientId: string; versions: number[] }> {
    const versions = await this.turn.run(() => {
      this.applySchema(schema);
      return resumed.streams.map((s) => this.subscribe(client, s.key, s.priority, s.ttl));
    });
    if (resumed.connect !== null) await this.startEngine(client, resumed.connect.id, resumed.connect.options, true);
    client.greeted = true;
    client.peer.send(this.statusEvent());
    return { clientId: this.store.clientId, versions };
  }

  private applySchema(schema: Schema): void {
    checkSchema(schema);
    applySchema(this.store, schema);
  }

  private query(sql: string, params: readonly Param[]): Columns {
    const { names, values, rows } = this.store.db.query(sql, params, true, MAX_ROWS);
    return { names, values, rows };
  }

  /** One transaction of statements, done once per key. */
  private execute(key: string, statements: readonly StatementCall[]): WriteResult {
    const done = doneChanges(this.store, key);
    if (done !== null) return { names: [], values: [], rows: 0, changes: done };
    return this.store.localWrite(() => {
      let out: WriteResult = { names: [], values: [], rows: 0, changes: 0 };
      for (const s of statements) out = this.store.db.query(s.sql, s.params, false, MAX_ROWS);
      noteDone(this.store, key, out.changes);
      return out;
    });
  }

  private async begin(client: Client): Promise<number> {
    if (client.transaction !== null) throw new Error("this page has a transaction open already");
    const end = await this.turn.acquire();
    if (!this.clients.has(client)) {
      end();
      throw new TransactionLostError("the page is gone");
    }
    try {
      this.store.beginLocal();
    } catch (e) {
      end();
      throw e;
    }
    const id = ++this.transactions;
    client.transaction = { id, end, idle: this.idleTimer(client) };
    return id;
  }

  private idleTimer(client: Client): ReturnType<typeof setTimeout> {
    return setTimeout(() => this.endTransaction(client, "undo"), TRANSACTION_IDLE);
  }

  private transaction(client: Client, id: number): Transaction {
    const t = client.transaction;
    if (t === null || t.id !== id) {
      throw new TransactionLostError(`the transaction was rolled back: it said nothing for ${TRANSACTION_IDLE / 1000} s (inside a transaction use its own methods, and wait for nothing else)`);
    }
    return t;
  }

  private statement(client: Client, id: number, sql: string, params: readonly Param[]): WriteResult {
    const t = this.transaction(client, id);
    clearTimeout(t.idle);
    t.idle = this.idleTimer(client);
    try {
      return this.store.db.query(sql, params, false, MAX_ROWS);
    } catch (e) {
      if (this.store.db.autocommit) this.endTransaction(client, "undo"); // SQLite has rolled back by itself
      throw e;
    }
  }

  private endTransaction(client: Client, how: "committed" | "undo"): void {
    const t = client.transaction;
    if (t === null) return;
    client.transaction = null;
    clearTimeout(t.idle);
    if (how === "undo") this.store.rollback();
    t.end();
  }

  private afterQueue(fn: () => void): void {
    fn();
    this.report({ pendingUploads: pendingUploads(this.store) });
  }

  private subscribe(client: Client, key: StreamKey, priority: number | null, ttl: number): number {
    const held = [...this.clients].some((c) => c.streams.has(streamId(key)));
    if (subscribeStream(this.store, key, priority, ttl, held)) this.streamsChanged();
    client.streams.set(streamId(key), key);
    return this.streamsVersion;
  }

  private release(key: StreamKey): void {
    if (this.closed || [...this.clients].some((c) => c.streams.has(streamId(key)))) return;
    releaseStream(this.store, key);
    if (expireStreams(this.store)) this.streamsChanged();
  }

  private streamsChanged(): void {
    this.streamsVersion++;
    this.engine?.wake();
  }

  /**
   * Connects, replacing an earlier connection. One that another page has made
   * with the same options stays as it is: opening a page interrupts nobody. So
   * does one made by this very call, and any if the page only resumes.
   */
  private startEngine(client: Client, id: string, options: ConnectOptions, resume: boolean): Promise<void> {
    return this.change(async () => {
      client.connects = true;
      if (resume && this.told && !this.wanted) return;
      const made = JSON.stringify(options);
      const { engine, connection } = this;
      if (engine !== null && (resume || connection?.id === id || (connection?.by !== client && connection?.made === made))) return;
      this.wanted = true;
      this.connection = { by: client, id, made };
      await engine?.stop();
      const host = {
        store: this.store, turn: this.turn,
        report: (c: Partial<SyncStatus>) => this.report(c),
        streamsVersion: () => this.streamsVersion,
        streamsExpired: () => this.streamsChanged(),
      };
      this.engine = new Engine(host, this.connector(client), options);
      this.engine.start();
      this.broadcast(this.statusEvent());
    });
  }

  private stopEngine(wanted: boolean): Promise<void> {
    return this.change(async () => {
      this.wanted = wanted;
      const e = this.engine;
      this.engine = null;
      await e?.stop();
      this.broadcast(this.statusEvent());
    });
  }

  /** Connecting and disconnecting wait for each other. */
  private change(fn: () => Promise<void>): Promise<void> {
    const mine = this.changing.then(fn);
    this.changing = mine.catch(() => {});
    return mine;
  }

  /**
   * The app's functions, in the page that connected last. If it is gone, or
   * failed when it was asked last (it may be frozen), in another, if there is one.
   */
  private connector(first: Client): EngineConnector {
    let preferred = first;
    const able = (): Client[] => [...this.clients].filter((c) => c.connects);
    const ask = async <T>(fn: (peer: Peer<PageApi, OwnerApi>) => Promise<T>): Promise<T> => {
      const all = able();
      const page = all.includes(preferred) ? preferred : all.at(-1);
      if (page === undefined) throw new Error("no page with a connector is open");
      try {
        return await fn(page.peer);
      } catch (e) {
        const others = able();
        preferred = others[(others.indexOf(page) + 1) % others.length] ?? first;
        throw e;
      }
    };
    return {
      fetchCredentials: (signal) => ask((peer) => peer.call("credentials", [], signal)),
      uploadData: (signal) => ask((peer) => peer.call("upload", [], signal)),
    };
  }

  private async verify(signal: AbortSignal): Promise<string[]> {
    const bad = new Set<string>();
    let cursor: VerifyCursor | null = null;
    do {
      signal.throwIfAborted();
      const slice = await this.turn.run(() => verifySlice(this.store, cursor, VERIFY_SLICE));
      for (const name of slice.bad) bad.add(name);
      cursor = slice.next;
      await pause();
    } while (cursor !== null);
    if (bad.size > 0) {
      await this.turn.run(() => dropBad(this.store, [...bad]));
      this.engine?.resync();
    }
    return [...bad];
  }
}

const streamId = (key: StreamKey): string => key.name + "\0" + key.params;
