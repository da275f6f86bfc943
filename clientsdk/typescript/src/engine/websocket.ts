import type { EndReason } from "../machine/downlink.js";
import type { OpenRequest } from "../protocol/frames.js";
import { checkpointRequestFrame, CLOSE, creditFrame, openFrame, PATH, SUBPROTOCOL } from "../protocol/frames.js";
import type { StreamHandlers, SyncStream } from "./stream.js";
import { below, CHECKPOINT_TIMEOUT, CREDIT_BYTES, MAX_FRAME_BYTES, OPEN_TIMEOUT } from "./stream.js";

/**
 * One open native WebSocket. Frames are inflated and split in the order they
 * came; the credit given bounds how many wait.
 */
export class WebSocketStream implements SyncStream {
  readonly inBand = true;
  private readonly socket: WebSocket;
  private inflating: Promise<void> = Promise.resolve();
  private silent: ReturnType<typeof setTimeout> | undefined;
  private unacknowledged = 0;
  private over = false;
  private reached = false;
  /** Answers still to come to requests that were given up. */
  private owed = 0;
  private asking: { resolve: (id: bigint) => void; reject: (e: Error) => void } | null = null;

  constructor(
    endpoint: string,
    token: string,
    request: OpenRequest,
    private readonly silence: number,
    private readonly handlers: StreamHandlers,
  ) {
    this.socket = new WebSocket(webSocketUrl(endpoint), SUBPROTOCOL);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.reached = true;
      this.heard();
      this.socket.send(openFrame(request, token, CREDIT_BYTES, canInflate));
    };
    this.socket.onmessage = (e: MessageEvent<string | ArrayBuffer>) => this.message(e.data);
    this.socket.onclose = (e) => this.end(closeReason(e.code), new Error(`the server closed the sync WebSocket (${e.code})${e.reason === "" ? "" : ": " + e.reason}`));
    const patience = Math.min(OPEN_TIMEOUT, silence);
    this.silent = setTimeout(() => this.end("lost", new Error(`the sync WebSocket did not open within ${patience / 1000} s`)), patience);
  }

  /** Sends a frame. */
  send(frame: string): void {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(frame);
  }

  /** A frame of so many bytes is stored: the server may send as much again. */
  consumed(bytes: number): void {
    this.unacknowledged += bytes;
    if (this.unacknowledged < CREDIT_BYTES / 2) return;
    this.send(creditFrame(this.unacknowledged));
    this.unacknowledged = 0;
  }

  /** Asks for a write checkpoint on this stream. */
  writeCheckpoint(signal: AbortSignal): Promise<bigint> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        clearTimeout(late);
        signal.removeEventListener("abort", cancelled);
        this.asking = null;
      };
      const cancelled = (): void => {
        settle();
        this.owed++;
        reject(new Error("cancelled"));
      };
      const late = setTimeout(() => this.refuse(new Error(`no answer within ${CHECKPOINT_TIMEOUT / 1000} s`)), CHECKPOINT_TIMEOUT);
      signal.addEventListener("abort", cancelled);
      this.asking = {
        resolve: (id) => {
          settle();
          resolve(id);
        },
        reject: (e) => {
          settle();
          reject(e);
        },
      };
      this.send(checkpointRequestFrame());
    });
  }

  /** The server's answer to writeCheckpoint; answers come in the order of the requests. */
  answer(id: bigint): void {
    if (this.owed > 0) this.owed--;
    else this.asking?.resolve(id);
  }

  /**
   * Takes a complaint of the server for the answer to the request under way, if
   * there is one. Should it have been about something else, the true answer may
   * still come and must not be taken for that of a later request: the stream
   * ends, and the next one is asked.
   */
  refuse(error: Error): void {
    if (this.asking === null) return;
    this.asking.reject(error);
    this.end("lost", error);
  }

  /** Ends the stream without a word. */
  close(): void {
    this.finish();
    this.socket.close(1000);
  }

  private finish(): void {
    this.over = true;
    clearTimeout(this.silent);
    this.asking?.reject(new Error("the stream ended before the write checkpoint came"));
  }

  private end(reason: EndReason, error: Error): void {
    if (this.over) return;
    // What came before the end is handed on before the end.
    void this.inflating.then(() => {
      if (this.over) return;
      this.finish();
      this.socket.close(1000);
      this.handlers.ended(reason, error, this.reached);
    });
  }

  private heard(): void {
    clearTimeout(this.silent);
    this.silent = setTimeout(() => this.end("lost", new Error(`the server was silent for ${this.silence / 1000} s`)), this.silence);
  }

  private message(data: string | ArrayBuffer): void {
    if (this.over) return;
    this.heard();
    const bytes = typeof data === "string" ? data.length : data.byteLength;
    this.inflating = this.inflating
      .then(async () => {
        const text = typeof data === "string" ? data : await inflate(data);
        if (!this.over) this.handlers.frame(text.split("\n").filter((l) => l.trim() !== ""), bytes);
      })
      .catch((e: unknown) => {
        if (this.over) return;
        this.finish();
        this.socket.close(1000);
        this.handlers.ended("protocol", new Error("a compressed frame: " + (e instanceof Error ? e.message : String(e))), true);
      });
  }
}

const canInflate = typeof DecompressionStream !== "undefined";

async function inflate(data: ArrayBuffer): Promise<string> {
  // Written to directly: a Blob's stream would take the bytes through another process first.
  const gzip = new DecompressionStream("gzip");
  const writer = gzip.writable.getWriter();
  void writer.write(new Uint8Array(data)).catch(() => {}); // what is wrong, the reader is told
  void writer.close().catch(() => {});
  const reader = gzip.readable.getReader();
  const decoder = new TextDecoder();
  let out = "";
  let bytes = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return out + decoder.decode();
    bytes += value.byteLength;
    if (bytes > MAX_FRAME_BYTES) {
      void reader.cancel();
      throw new Error(`it holds more than ${MAX_FRAME_BYTES} bytes`);
    }
    out += decoder.decode(value, { stream: true });
  }
}

/** The WebSocket's address below an http or https endpoint. */
export function webSocketUrl(endpoint: string): string {
  const u = below(endpoint, PATH);
  u.protocol = u.protocol === "http:" ? "ws:" : "wss:";
  return u.toString();
}

/** Tries whether a WebSocket can be opened, and closes it. */
export function webSocketOpens(endpoint: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = new WebSocket(webSocketUrl(endpoint), SUBPROTOCOL);
    const done = (opened: boolean): void => {
      clearTimeout(late);
      socket.close(1000);
      resolve(opened);
    };
    const late = setTimeout(() => done(false), OPEN_TIMEOUT);
    socket.onopen = () => done(true);
    socket.onclose = () => done(false);
  });
}

function closeReason(code: number): EndReason {
  switch (code) {
    case CLOSE.unauthorized:
    case CLOSE.subject:
      return "unauthorized";
    case CLOSE.restarting:
    case CLOSE.rules:
      return "restarting";
    case CLOSE.overloaded:
    case CLOSE.connections:
      return "overloaded";
    case CLOSE.malformed:
    case CLOSE.noOpen:
    case CLOSE.tooLarge:
      return "protocol";
  }
  return "lost";
}
