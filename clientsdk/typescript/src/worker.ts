/**
 * The worker every page starts. It waits for the database's lock; whoever has
 * it opens the database and serves all pages, until its page closes or crashes:
 * then the lock frees itself and another worker goes on.
 */
import sqlite3InitModule from "@sqlite.org/sqlite-wasm";
import type { Sqlite3Static } from "@sqlite.org/sqlite-wasm";
import type { BrokeredPort, RoomMessage, WorkerMessage, WorkerReply } from "./owner/meeting.js";
import { ownerLock, roomChannel, roomName, tabLock } from "./owner/meeting.js";
import { openDatabase } from "./owner/open.js";
import { Owner } from "./owner/owner.js";
import { portChannel } from "./rpc.js";

/** The part of a worker's global object that is used. */
interface Scope {
  onmessage: ((e: MessageEvent<WorkerMessage>) => void) | null;
  postMessage(m: WorkerReply, transfer?: Transferable[]): void;
  close(): void;
}
const scope = self as unknown as Scope;

type Start = Extract<WorkerMessage, { type: "start" }>;

const stopping = new AbortController();
/** Ends the present ownership, if there is one. */
let yieldNow: () => void = () => {};
const broker: MessagePort[] = [];
let onBroker: (port: MessagePort) => void = (port) => broker.push(port);

scope.onmessage = (e) => {
  switch (e.data.type) {
    case "start":
      void run(e.data);
      return;
    case "broker":
      onBroker(e.data.port);
      return;
    case "yield":
      yieldNow();
      return;
    case "stop":
      stopping.abort();
  }
};

async function run(start: Start): Promise<void> {
  // Loaded while waiting, so that a take-over is quick.
  const loading = load(start.wasm);
  loading.catch(() => {}); // reported by the one who needs it
  try {
    // One that gave the lock up waits for it again.
    while (!stopping.signal.aborted) await navigator.locks.request(ownerLock(start.db), { signal: stopping.signal }, () => own(start, loading));
  } catch (e) {
    if (!stopping.signal.aborted) scope.postMessage({ type: "failed", message: e instanceof Error ? e.message : String(e) });
  }
  scope.postMessage({ type: "stopped" });
  scope.close();
}

async function load(wasm: string | undefined): Promise<Sqlite3Static> {
  // Only the pool is used; the other file systems would start workers of their own.
  Object.assign(globalThis, { sqlite3ApiConfig: { disable: { vfs: { kvvfs: true, opfs: true, "opfs-vfs": true, "opfs-wl": true } } } });
  const options = wasm === undefined ? {} : { locateFile: () => wasm };
  return (sqlite3InitModule as (options: object) => Promise<Sqlite3Static>)(options);
}

/** Owns the database until the page says stop, or gives it up to another that waits. */
async function own(start: Start, loading: Promise<Sqlite3Static>): Promise<void> {
  const { db, persistent, reason, release } = await openDatabase(await loading, start.db);
  if (reason !== undefined) console.warn("Millrace: no durable storage here, the database is in memory:", reason);
  const owner = new Owner(db, persistent);
  const room = new BroadcastChannel(roomName(start.db));
  const announce = (): void => room.postMessage({ type: "owner", owner: start.worker } satisfies RoomMessage);

  const { port1, port2 } = new MessageChannel();
  owner.serve(portChannel(port1));
  const served = new Set<string>();
  room.addEventListener("message", (e: MessageEvent<RoomMessage>) => {
    if (e.data.type === "who") announce();
    if (e.data.type === "reach" && e.data.owner === start.worker && !served.has(e.data.link)) {
      served.add(e.data.link);
      owner.serve(roomChannel(room, e.data.link, "owner"), gone(start.db, e.data.tab));
      announce(); // also says that the page may talk now
    }
  });
  onBroker = (port) => {
    port.onmessage = (e: MessageEvent<BrokeredPort>) => {
      const page = e.ports[0];
      if (page !== undefined) owner.serve(portChannel(page), gone(start.db, e.data.tab));
    };
  };
  for (const port of broker.splice(0)) onBroker(port);
  scope.postMessage({ type: "owner", port: port2 }, [port2]);
  announce();

  await new Promise<void>((resolve) => {
    if (stopping.signal.aborted) resolve();
    stopping.signal.addEventListener("abort", () => resolve());
    yieldNow = () => void othersWait(start.db).then((wait) => wait && resolve());
  });
  yieldNow = () => {};
  onBroker = (port) => broker.push(port);
  room.close();
  await owner.close();
  release();
}

async function othersWait(db: string): Promise<boolean> {
  const { pending = [] } = await navigator.locks.query();
  return pending.some((l) => l.name === ownerLock(db));
}

/** Resolves when a page is gone: it holds a lock as long as it lives. */
function gone(db: string, tab: string): Promise<void> {
  return navigator.locks.request(tabLock(db, tab), () => {});
}
