import type { EndReason } from "../machine/downlink.js";

/** How many bytes the server may send ahead of what is stored. */
export const CREDIT_BYTES = 8 << 20;
/** Servers speak every 20 s at least. */
export const DEFAULT_SILENCE = 50_000;
/** How long a connection may take to open, if `silence` is not shorter. */
export const OPEN_TIMEOUT = 20_000;
/** How long a write checkpoint may take. */
export const CHECKPOINT_TIMEOUT = 30_000;
/** A row may have about 16 MB; a frame holds at least one line. */
export const MAX_FRAME_BYTES = 64 << 20;

/** One open stream of lines, whatever carries it. */
export interface SyncStream {
  /** It takes messages; else another list or token needs another stream. */
  readonly inBand: boolean;
  /** Sends a frame, if it takes any. */
  send(frame: string): void;
  /** A frame of so many bytes is stored: the server may send as much again. */
  consumed(bytes: number): void;
  /** Asks for a write checkpoint. */
  writeCheckpoint(signal: AbortSignal): Promise<bigint>;
  /** The server's answer to writeCheckpoint, where it comes as a line. */
  answer(id: bigint): void;
  /** A complaint of the server that ends no stream: perhaps the answer to writeCheckpoint. */
  refuse(error: Error): void;
  /** Ends the stream without a word. */
  close(): void;
}

export interface StreamHandlers {
  /** A frame's lines, in order. Give its bytes back with consumed() once they are done with. */
  readonly frame: (lines: readonly string[], bytes: number) => void;
  /** The stream is over; told once, unless close() was called. reached: it was open, the server was there. */
  readonly ended: (reason: EndReason, error: Error, reached: boolean) => void;
}

/** An address below an http or https endpoint. */
export function below(endpoint: string, path: string): URL {
  const u = new URL(endpoint);
  if (u.protocol !== "http:" && u.protocol !== "https:") throw new Error(`endpoint ${JSON.stringify(endpoint)} is not an http or https URL`);
  u.pathname = u.pathname.replace(/\/+$/, "") + path;
  return u;
}
