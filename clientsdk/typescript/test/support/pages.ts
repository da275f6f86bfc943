/** Pages of an owner, without browsers: channels in this process. */
import type { ConnectOptions } from "../../src/engine/engine.js";
import type { Owner } from "../../src/owner/owner.js";
import type { Channel, Handler, OwnerApi, OwnerEvent, PageApi } from "../../src/rpc.js";
import { Peer } from "../../src/rpc.js";
import { defineSchema, integer, table, text } from "../../src/schema.js";
import type { SyncStatus } from "../../src/status.js";

export const pageSchema = defineSchema({ todos: table({ title: text, done: integer }), drafts: table({ body: text }, { localOnly: true }) });

/** Two ends; messages are copied, and come later, in order. */
export function channelPair(): [Channel, Channel] {
  const end = (): Channel & { peer?: Channel; closed?: boolean } => ({
    post(m) {
      const copy: unknown = structuredClone(m);
      setTimeout(() => {
        if (this.peer !== undefined && (this.peer as { closed?: boolean }).closed !== true) this.peer.onmessage(copy);
      }, 0);
    },
    onmessage: () => {},
    close() {
      this.closed = true;
    },
  });
  const [a, b] = [end(), end()];
  a.peer = b;
  b.peer = a;
  return [a, b];
}

export class TestPage {
  readonly peer: Peer<OwnerApi, PageApi>;
  readonly events: OwnerEvent[] = [];
  credentials: () => Promise<{ endpoint: string; token: string } | null> = async () => ({ endpoint: "http://server.test/base/", token: "t1" });
  upload: (signal: AbortSignal) => Promise<void> = async () => {};
  /** The page goes, without a word. */
  readonly vanish: () => void;

  constructor(owner: Owner) {
    const [mine, theirs] = channelPair();
    let gone: () => void = () => {};
    const isGone = new Promise<void>((resolve) => (gone = resolve));
    const handler: Handler<PageApi> = { credentials: () => this.credentials(), upload: (signal) => this.upload(signal) };
    this.peer = new Peer<OwnerApi, PageApi>(mine, handler, (e) => this.events.push(e as OwnerEvent));
    owner.serve(theirs, isGone);
    this.vanish = () => {
      mine.onmessage = () => {};
      gone();
    };
  }

  /** Greets the owner; with options, as a page that was connected before. */
  async hello(options?: ConnectOptions): Promise<this> {
    const connect = options === undefined ? null : { id: crypto.randomUUID(), options };
    await this.peer.call("hello", ["tab", pageSchema, { streams: [], connect }]);
    return this;
  }

  async connect(options: ConnectOptions, id: string = crypto.randomUUID()): Promise<void> {
    await this.peer.call("connect", [id, options]);
  }

  async rows(sql: string): Promise<unknown[][]> {
    const c = await this.peer.call("query", [sql, []]);
    return Array.from({ length: c.rows }, (_, i) => c.values.map((v) => v[i]));
  }

  async write(sql: string, key: string = crypto.randomUUID()): Promise<void> {
    await this.peer.call("execute", [key, [{ sql, params: [] }]]);
  }

  get status(): SyncStatus | undefined {
    return this.events.findLast((e) => e.type === "status")?.status;
  }
}
