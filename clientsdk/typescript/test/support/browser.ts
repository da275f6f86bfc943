/** As much of a browser as a page of the SDK needs, without one. */
import { onTestFinished, vi } from "vitest";
import type { MillraceOptions } from "../../src/client/millrace.js";
import { Millrace } from "../../src/client/millrace.js";
import type { RoomMessage } from "../../src/owner/meeting.js";
import { roomChannel, roomName } from "../../src/owner/meeting.js";
import type { Owner } from "../../src/owner/owner.js";
import type { Channel } from "../../src/rpc.js";
import { pageSchema } from "./pages.js";

type Granted = () => unknown;

/** Locks of one origin, each granted to one holder at a time, once `open` resolves. */
class FakeLocks {
  private readonly tails = new Map<string, Promise<unknown>>();
  open: Promise<void> = Promise.resolve();

  request(name: string, granted: Granted): Promise<unknown> {
    const mine = (this.tails.get(name) ?? this.open).then(() => granted());
    this.tails.set(name, mine.catch(() => {}));
    return mine;
  }
}

/** A worker that never gets the database: pages talk to the test's owner. */
class IdleWorker {
  onmessage: ((e: { data: unknown }) => void) | null = null;
  postMessage(m: { readonly type: string }): void {
    if (m.type === "stop") queueMicrotask(() => this.onmessage?.({ data: { type: "stopped" } }));
  }
  terminate(): void {}
}

export interface FakeBrowser {
  readonly locks: FakeLocks;
  /** Opens a page; it is closed when the test ends. */
  page(options?: Partial<MillraceOptions>): Millrace;
  /**
   * Has an owner serve the pages of database "test", as a worker does. Each
   * page's channel goes through `wire`; `leave` makes the owner take the page
   * last served for one that is gone.
   */
  host(owner: Owner, wire?: (channel: Channel) => Channel): { readonly leave: () => void; readonly reached: () => number };
}

/** Puts the fakes in place until the test ends. */
export function fakeBrowser(): FakeBrowser {
  const locks = new FakeLocks();
  vi.stubGlobal("navigator", { locks });
  vi.stubGlobal("document", { hidden: false, addEventListener: () => {}, removeEventListener: () => {} });
  onTestFinished(() => void vi.unstubAllGlobals());
  return {
    locks,
    page(options) {
      const db = new Millrace({ schema: pageSchema, name: "test", broker: null, worker: () => new IdleWorker() as unknown as Worker, ...options });
      onTestFinished(() => db.close());
      return db as unknown as Millrace;
    },
    host(owner, wire = (c) => c) {
      const room = new BroadcastChannel(roomName("test"));
      onTestFinished(() => room.close());
      let leave = (): void => {};
      let reached = 0;
      const announce = (): void => room.postMessage({ type: "owner", owner: "the test's" } satisfies RoomMessage);
      room.addEventListener("message", ((e: MessageEvent<RoomMessage>) => {
        if (e.data.type === "who") announce();
        if (e.data.type !== "reach") return;
        reached++;
        owner.serve(wire(roomChannel(room, e.data.link, "owner")), new Promise((resolve) => (leave = resolve)));
      }) as EventListener);
      announce();
      return { leave: () => leave(), reached: () => reached };
    },
  };
}
