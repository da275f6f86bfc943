/**
 * How pages and workers of one database find each other: names of locks and
 * channels, and the messages on them.
 */
import type { Channel } from "../rpc.js";

/** Held by the worker that owns the database. */
export const ownerLock = (db: string): string => `millrace:${db}`;
/** Held by a page as long as it lives. */
export const tabLock = (db: string, tab: string): string => `millrace:${db}:tab:${tab}`;
/** The folder of a database's files. */
export const folder = (db: string): string => `millrace-${encodeURIComponent(db)}`;
/** Where owners announce themselves, and where messages go that have no other way. */
export const roomName = (db: string): string => `millrace:${db}`;

export type RoomMessage =
  /** A worker has opened the database. */
  | { readonly type: "owner"; readonly owner: string }
  /** Who owns the database? */
  | { readonly type: "who" }
  /** A page wants to be served here, having no other way. */
  | { readonly type: "reach"; readonly owner: string; readonly tab: string; readonly link: string }
  | { readonly type: "message"; readonly link: string; readonly to: "page" | "owner"; readonly body: unknown };

/** What a page tells its own worker. */
export type WorkerMessage =
  | { readonly type: "start"; readonly db: string; readonly worker: string; readonly wasm?: string }
  /** A way to the broker, from where ports of other pages come. */
  | { readonly type: "broker"; readonly port: MessagePort }
  /** The page has been hidden for a while: let another page have the database, if one waits. */
  | { readonly type: "yield" }
  | { readonly type: "stop" };

/** What a worker tells its page. */
export type WorkerReply =
  /** It has the database; the page talks to it over this port. */
  | { readonly type: "owner"; readonly port: MessagePort }
  | { readonly type: "failed"; readonly message: string }
  | { readonly type: "stopped" };

/** What pages tell the broker, always with a port. */
export type BrokerMessage =
  | { readonly type: "owner"; readonly db: string; readonly owner: string }
  | { readonly type: "reach"; readonly db: string; readonly owner: string; readonly tab: string };

/** What the broker hands to an owner, with the page's port. */
export interface BrokeredPort {
  readonly type: "page";
  readonly tab: string;
}

/** One end of a conversation in the room: for browsers without SharedWorker. */
export function roomChannel(room: BroadcastChannel, link: string, me: "page" | "owner"): Channel {
  const to = me === "page" ? "owner" : "page";
  const listen = (e: MessageEvent<RoomMessage>): void => {
    if (e.data.type === "message" && e.data.link === link && e.data.to === me) channel.onmessage(e.data.body);
  };
  const channel: Channel = {
    post: (body) => room.postMessage({ type: "message", link, to, body } satisfies RoomMessage),
    onmessage: () => {},
    close: () => room.removeEventListener("message", listen),
  };
  room.addEventListener("message", listen);
  return channel;
}
