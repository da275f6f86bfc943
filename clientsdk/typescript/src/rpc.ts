/**
 * What pages and the worker that owns the database say to each other, over
 * whatever carries messages between them.
 */
import type { ConnectOptions } from "./engine/engine.js";
import type { Credentials } from "./engine/credentials.js";
import type { ErrorData } from "./errors.js";
import { errorData, errorFrom } from "./errors.js";
import type { Schema } from "./schema.js";
import type { Columns, Param } from "./sqlite/connection.js";
import type { SyncStatus } from "./status.js";
import type { RejectedUpload, UploadEntry, UploadOp } from "./store/queue.js";
import type { StreamKey } from "./store/streams.js";
import type { Diagnostics } from "./store/diagnostics.js";

/** Carries messages both ways. */
export interface Channel {
  post(message: unknown): void;
  /** Set once, before anything is posted. */
  onmessage: (message: unknown) => void;
  close(): void;
}

/** A statement and its parameters. */
export interface StatementCall {
  readonly sql: string;
  readonly params: readonly Param[];
}

/** Result of a write; rows only where the statement returns some. */
export interface WriteResult extends Columns {
  readonly changes: number;
}

/** What a page had asked of the owner before, and asks of this one at once. */
export interface Resumed {
  readonly streams: readonly { readonly key: StreamKey; readonly priority: number | null; readonly ttl: number }[];
  /** Its call of connect; null if it made none. */
  readonly connect: { readonly id: string; readonly options: ConnectOptions } | null;
}

/** What the owner does for a page. A key names a write, so that it is done once however often it is asked for. */
export interface OwnerApi {
  /**
   * Comes first, and once. From here on the page is told what happens, beginning
   * with the status of this moment. Gives the versions of the list of streams
   * that have the page's. A connection that is there already is left alone, and
   * after a disconnect none is made.
   */
  hello(tab: string, schema: Schema, resumed: Resumed): { readonly clientId: string; readonly versions: readonly number[] };
  query(sql: string, params: readonly Param[]): Columns;
  execute(key: string, statements: readonly StatementCall[]): WriteResult;
  /** An interactive transaction: begin, any statements, commit or rollback. */
  begin(): number;
  statement(tx: number, sql: string, params: readonly Param[]): WriteResult;
  commit(tx: number, key: string): void;
  rollback(tx: number): void;
  /** Whether the write of this key is there. */
  wasDone(key: string): boolean;
  /** Types of rows a query reads. */
  tablesOf(sql: string): readonly string[];
  /** id names the call, so that it is done once. */
  connect(id: string, options: ConnectOptions): void;
  disconnect(): void;
  reconnect(): void;
  clear(keepLocal: boolean): void;
  nextTransaction(): { readonly id: bigint; readonly ops: readonly UploadOp[] } | null;
  completeUpload(tx: bigint, writeCheckpoint?: bigint): void;
  rejectUpload(tx: bigint, reason: string): void;
  uploadQueue(limit: number): readonly UploadEntry[];
  rejectedUploads(limit: number): readonly RejectedUpload[];
  forgetRejected(number: bigint): void;
  /** Gives the version of the list of streams that has it. */
  subscribe(key: StreamKey, priority: number | null, ttl: number): number;
  unsubscribe(key: StreamKey): void;
  updateSchema(schema: Schema): void;
  /** Recomputes the checksums of everything stored; gives the buckets found wrong, which are downloaded again. */
  verify(): readonly string[];
  diagnostics(): Diagnostics;
}

/** What a page does for the owner. */
export interface PageApi {
  credentials(): Credentials | null;
  upload(): void;
}

/** What the owner tells without being asked. */
export type OwnerEvent =
  | { readonly type: "changes"; readonly types: readonly string[] }
  | { readonly type: "status"; readonly status: SyncStatus; readonly wanted: boolean };

type Method = (...args: never[]) => unknown;
type Methods<A> = { readonly [M in keyof A]: Method };

type Message =
  | { readonly m: "call"; readonly id: number; readonly name: string; readonly args: readonly unknown[] }
  | { readonly m: "cancel"; readonly id: number }
  | { readonly m: "return"; readonly id: number; readonly value: unknown }
  | { readonly m: "throw"; readonly id: number; readonly error: ErrorData }
  | { readonly m: "event"; readonly event: unknown }
  | { readonly m: "bye" };

/** How a side answers calls: the signal ends when the caller cancels, or the channel does. */
export type Handler<A> = { readonly [M in keyof A]: A[M] extends (...args: infer P) => infer R ? (signal: AbortSignal, ...args: P) => R | Promise<R> : never };

/** Thrown by calls under way when the channel is closed. */
export class ChannelClosedError extends Error {
  override readonly name = "MillraceChannelClosedError";
  constructor() {
    super("the other side is gone");
  }
}

/** One end of a channel: calls out, answers calls in. */
export class Peer<Out extends Methods<Out>, In extends Methods<In>> {
  private readonly calls = new Map<number, { resolve: (v: unknown) => void; reject: (e: Error) => void }>();
  private readonly answering = new Map<number, AbortController>();
  private next = 1;
  private closed = false;

  constructor(
    private readonly channel: Channel,
    private readonly handler: Handler<In>,
    private readonly onEvent: (event: unknown) => void = () => {},
    /** The other side has closed the channel. One that crashes does not say so. */
    private readonly onBye: () => void = () => {},
  ) {
    channel.onmessage = (m) => this.receive(m as Message);
  }

  call<M extends keyof Out & string>(name: M, args: Parameters<Out[M]>, signal?: AbortSignal): Promise<ReturnType<Out[M]>> {
    if (this.closed) return Promise.reject(new ChannelClosedError());
    const id = this.next++;
    return new Promise((resolve, reject) => {
      const cancel = (): void => {
        this.calls.delete(id);
        this.post({ m: "cancel", id });
        reject(signal?.reason instanceof Error ? signal.reason : new Error("cancelled"));
      };
      if (signal?.aborted === true) return cancel();
      signal?.addEventListener("abort", cancel, { once: true });
      this.calls.set(id, {
        resolve: (v) => {
          signal?.removeEventListener("abort", cancel);
          resolve(v as ReturnType<Out[M]>);
        },
        reject: (e) => {
          signal?.removeEventListener("abort", cancel);
          reject(e);
        },
      });
      this.post({ m: "call", id, name, args });
    });
  }

  send(event: unknown): void {
    this.post({ m: "event", event });
  }

  private post(m: Message): void {
    if (!this.closed) this.channel.post(m);
  }

  /** Ends the channel, and tells the other side: calls under way are rejected, those being answered are told. */
  close(): void {
    if (this.closed) return;
    this.post({ m: "bye" });
    this.closed = true;
    for (const c of this.calls.values()) c.reject(new ChannelClosedError());
    this.calls.clear();
    for (const a of this.answering.values()) a.abort(new ChannelClosedError());
    this.channel.close();
  }

  private receive(m: Message): void {
    if (this.closed) return;
    switch (m.m) {
      case "call":
        void this.answer(m.id, m.name, m.args);
        return;
      case "cancel":
        this.answering.get(m.id)?.abort(new Error("cancelled by the caller"));
        return;
      case "return":
        this.calls.get(m.id)?.resolve(m.value);
        this.calls.delete(m.id);
        return;
      case "throw":
        this.calls.get(m.id)?.reject(errorFrom(m.error));
        this.calls.delete(m.id);
        return;
      case "event":
        this.onEvent(m.event);
        return;
      case "bye":
        this.close();
        this.onBye();
    }
  }

  private async answer(id: number, name: string, args: readonly unknown[]): Promise<void> {
    const abort = new AbortController();
    this.answering.set(id, abort);
    try {
      const fn = (this.handler as unknown as Record<string, ((signal: AbortSignal, ...args: readonly unknown[]) => unknown) | undefined>)[name];
      if (fn === undefined) throw new Error(`no method ${name}: the tabs run different versions of the app; reload them`);
      const value: unknown = await fn(abort.signal, ...args);
      this.post({ m: "return", id, value });
    } catch (e) {
      this.post({ m: "throw", id, error: errorData(e) });
    } finally {
      this.answering.delete(id);
    }
  }
}

/** A MessagePort as a channel. */
export function portChannel(port: MessagePort): Channel {
  const channel: Channel = {
    post: (m) => port.postMessage(m),
    onmessage: () => {},
    close: () => port.close(),
  };
  port.onmessage = (e: MessageEvent<unknown>) => channel.onmessage(e.data);
  port.start();
  return channel;
}
