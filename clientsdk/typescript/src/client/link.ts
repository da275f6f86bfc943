import { ClosedError, OpenError } from "../errors.js";
import type { BrokerMessage, RoomMessage, WorkerMessage, WorkerReply } from "../owner/meeting.js";
import { roomChannel, roomName, tabLock } from "../owner/meeting.js";
import type { Channel, Handler, OwnerApi, OwnerEvent, PageApi } from "../rpc.js";
import { ChannelClosedError, Peer, portChannel } from "../rpc.js";

/** How long an owner may take to greet before another way to it is tried. Milliseconds. */
const GREETING = 5_000;

/** How long a page is hidden before it lets another one have the database. Milliseconds. */
const HIDDEN_FOR = 60_000;

export interface LinkOptions {
  readonly db: string;
  /** Starts the worker of this page, and the broker where there are SharedWorkers. */
  readonly startWorker: () => Worker;
  readonly startBroker: (() => SharedWorker) | null;
  readonly wasmUrl: string | undefined;
}

export type OwnerPeer = Peer<OwnerApi, PageApi>;

export interface LinkHandlers {
  readonly page: Handler<PageApi>;
  readonly event: (event: OwnerEvent) => void;
  /** Greets an owner; until it is done nobody else gets the peer. */
  readonly greet: (peer: OwnerPeer) => Promise<void>;
}

/**
 * The way from a page to whoever owns the database. Owners change when their
 * page closes or crashes; a link finds the next one, and `call` sends again
 * what the last one did not answer, if that is harmless.
 */
export class Link {
  readonly tab = crypto.randomUUID();
  private readonly me = crypto.randomUUID();
  private readonly room: BroadcastChannel;
  private readonly worker: Worker;
  private readonly broker: SharedWorker | null;
  /** The way to this page's own worker, while it is the owner. */
  private direct: MessagePort | null = null;
  private hiding: ReturnType<typeof setTimeout> | undefined;
  private readonly leaving = new AbortController();
  /** Resolves when this page holds its lock. */
  private readonly present: Promise<void>;
  private owner = "";
  private peer: OwnerPeer | null = null;
  private ready: PromiseWithResolversOf<OwnerPeer>;
  private failure: Error | null = null;
  private stopped: (() => void) | null = null;
  /** The owner worker is this page's. */
  isOwner = false;

  constructor(
    private readonly options: LinkOptions,
    private readonly handlers: LinkHandlers,
  ) {
    this.ready = withResolvers();
    // Held until the page goes: it tells owners that the page is there.
    this.present = new Promise((present, refused) => {
      const hold = (): Promise<void> => {
        present();
        return this.leaving.signal.aborted ? Promise.resolve() : new Promise((resolve) => this.leaving.signal.addEventListener("abort", () => resolve()));
      };
      navigator.locks.request(tabLock(options.db, this.tab), hold).catch(refused);
    });
    this.present.catch((e: unknown) => this.fail(message(e)));
    this.room = new BroadcastChannel(roomName(options.db));
    this.room.addEventListener("message", (e: MessageEvent<RoomMessage>) => {
      if (e.data.type === "owner" && e.data.owner !== this.me) this.announced(e.data.owner);
    });
    this.broker = options.startBroker?.() ?? null;
    this.worker = options.startWorker();
    this.worker.onmessage = (e: MessageEvent<WorkerReply>) => this.fromWorker(e.data);
    this.worker.onerror = (e) => this.fail(`the worker did not start${e.message === undefined ? "" : ": " + e.message} (is its file served, and allowed by the page's content security policy?)`);
    const start: WorkerMessage = { type: "start", db: options.db, worker: this.me, ...(options.wasmUrl === undefined ? {} : { wasm: options.wasmUrl }) };
    this.worker.postMessage(start);
    document.addEventListener("visibilitychange", this.hidden);
    this.room.postMessage({ type: "who" } satisfies RoomMessage);
  }

  /** Calls the owner. Waits for one; resend: if it goes away meanwhile, the next one is asked. */
  async call<M extends keyof OwnerApi & string>(name: M, args: Parameters<OwnerApi[M]>, resend: boolean, signal?: AbortSignal): Promise<ReturnType<OwnerApi[M]>> {
    for (;;) {
      const peer = await this.current(signal);
      try {
        return await peer.call(name, args, signal);
      } catch (e) {
        if (!resend || !(e instanceof ChannelClosedError) || this.leaving.signal.aborted) throw e;
      }
    }
  }

  /** The owner at present; waits until there is one. */
  async current(signal?: AbortSignal): Promise<OwnerPeer> {
    signal?.throwIfAborted();
    if (this.failure !== null) throw this.failure;
    if (this.peer !== null) return this.peer;
    if (signal === undefined) return this.ready.promise;
    return new Promise((resolve, reject) => {
      const cancel = (): void => reject(signal.reason as Error);
      signal.addEventListener("abort", cancel, { once: true });
      void this.ready.promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", cancel));
    });
  }

  /** Leaves; waits until this page's worker has closed the database, if it has it. */
  async close(): Promise<void> {
    if (this.leaving.signal.aborted) return;
    this.failure = new ClosedError();
    this.drop();
    this.giveUp(this.failure);
    const stopped = new Promise<void>((resolve) => (this.stopped = resolve));
    this.worker.postMessage({ type: "stop" } satisfies WorkerMessage);
    await stopped;
    document.removeEventListener("visibilitychange", this.hidden);
    clearTimeout(this.hiding);
    this.leaving.abort();
    this.room.close();
    this.broker?.port.close();
    this.worker.terminate();
  }

  /** A hidden page may be slowed down: after a while another one is to have the database. */
  private readonly hidden = (): void => {
    clearTimeout(this.hiding);
    if (document.hidden) this.hiding = setTimeout(() => this.worker.postMessage({ type: "yield" } satisfies WorkerMessage), HIDDEN_FOR);
  };

  private fromWorker(m: WorkerReply): void {
    switch (m.type) {
      case "owner": {
        this.direct = m.port;
        if (this.broker !== null) {
          const { port1, port2 } = new MessageChannel();
          this.worker.postMessage({ type: "broker", port: port1 } satisfies WorkerMessage, [port1]);
          this.broker.port.postMessage({ type: "owner", db: this.options.db, owner: this.me } satisfies BrokerMessage, [port2]);
        }
        this.owner = ""; // also if it was the last owner before
        return this.announced(this.me);
      }
      case "failed":
        return this.fail(m.message);
      case "stopped":
        this.stopped?.();
    }
  }

  private fail(message: string): void {
    this.failure ??= new OpenError(`the local database ${this.options.db} cannot be used: ${message}`);
    this.giveUp(this.failure);
  }

  private giveUp(error: Error): void {
    this.ready.promise.catch(() => {}); // whoever waits gets it
    this.ready.reject(error);
  }

  /** Leaves the owner that was; calls under way end. */
  private drop(): void {
    if (this.peer !== null) this.ready = withResolvers();
    this.peer?.close();
    this.peer = null;
  }

  /** The owner has said good-bye. The next one announces itself; one that is still there after all, when asked. */
  private left(peer: OwnerPeer): void {
    if (this.peer !== peer) return;
    this.owner = "";
    this.isOwner = false;
    this.drop();
    this.room.postMessage({ type: "who" } satisfies RoomMessage);
  }

  private announced(owner: string): void {
    if (this.failure !== null || this.owner === owner) return;
    this.owner = owner;
    this.isOwner = owner === this.me;
    this.drop();
    void this.reach(owner);
  }

  /** Tries the ways to an owner until it greets, or is no longer the owner. */
  private async reach(owner: string): Promise<void> {
    let brokered = this.broker !== null;
    // An owner takes a page without its lock for one that is gone.
    await this.present;
    while (this.owner === owner && this.failure === null) {
      const peer: OwnerPeer = new Peer<OwnerApi, PageApi>(this.way(owner, brokered), this.handlers.page, (e) => this.handlers.event(e as OwnerEvent), () => this.left(peer));
      try {
        const greeting = this.handlers.greet(peer);
        await (owner === this.me ? greeting : within(GREETING, greeting));
        if (this.owner !== owner) return peer.close();
        this.peer = peer;
        this.ready.resolve(peer);
        return;
      } catch (e) {
        peer.close();
        if (!(e instanceof LateError) && !(e instanceof ChannelClosedError)) return this.fail(message(e));
        brokered = false;
      }
    }
  }

  private way(owner: string, brokered: boolean): Channel {
    if (owner === this.me && this.direct !== null) return portChannel(this.direct);
    if (brokered && this.broker !== null) {
      const { port1, port2 } = new MessageChannel();
      this.broker.port.postMessage({ type: "reach", db: this.options.db, owner, tab: this.tab } satisfies BrokerMessage, [port2]);
      return portChannel(port1);
    }
    const link = crypto.randomUUID();
    const channel = roomChannel(this.room, link, "page");
    this.room.postMessage({ type: "reach", owner, tab: this.tab, link } satisfies RoomMessage);
    return channel;
  }
}

const message = (e: unknown): string => (e instanceof Error ? e.message : String(e));

class LateError extends Error {}

async function within<T>(ms: number, p: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => (timer = setTimeout(() => reject(new LateError(`no answer within ${ms} ms`)), ms)));
  try {
    return await Promise.race([p, late]);
  } finally {
    clearTimeout(timer);
  }
}

interface PromiseWithResolversOf<T> {
  readonly promise: Promise<T>;
  readonly resolve: (v: T) => void;
  readonly reject: (e: Error) => void;
}

function withResolvers<T>(): PromiseWithResolversOf<T> {
  let resolve: (v: T) => void = () => {};
  let reject: (e: Error) => void = () => {};
  const promise = new Promise<T>((a, b) => {
    resolve = a;
    reject = b;
  });
  return { promise, resolve, reject };
}
