/** A WebSocket whose other end is the test. */
import { onTestFinished, vi } from "vitest";

type Frame = Record<string, Record<string, unknown>>;

export class FakeSocket {
  static readonly OPEN = 1;
  static all: FakeSocket[] = [];
  /** False: new ones do not open. */
  static reachable = true;

  readyState = 0;
  binaryType = "blob";
  onopen: (() => void) | null = null;
  onmessage: ((e: { data: string | ArrayBuffer }) => void) | null = null;
  onclose: ((e: { code: number; reason: string }) => void) | null = null;
  /** What the client sent. */
  readonly frames: Frame[] = [];

  constructor(
    readonly url: string,
    readonly protocol: string,
  ) {
    FakeSocket.all.push(this);
    queueMicrotask(() => {
      if (this.readyState !== 0 || !FakeSocket.reachable) return;
      this.readyState = 1;
      this.onopen?.();
    });
  }

  send(text: string): void {
    this.frames.push(JSON.parse(text) as Frame);
  }

  close(): void {
    this.readyState = 3;
  }

  /** The server sends lines, in one frame. */
  says(...lines: object[]): void {
    this.onmessage?.({ data: lines.map((l) => JSON.stringify(l)).join("\n") });
  }

  sends(data: ArrayBuffer): void {
    this.onmessage?.({ data });
  }

  /** The connection ends. */
  ends(code = 1006, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  /** Frames with a key. */
  sent(key: string): Record<string, unknown>[] {
    return this.frames.flatMap((f) => (f[key] === undefined ? [] : [f[key]]));
  }

  get open(): boolean {
    return this.readyState === 1;
  }
}

/** Puts fake sockets in the place of real ones until the test ends. */
export function fakeSockets(): void {
  FakeSocket.all = [];
  FakeSocket.reachable = true;
  vi.stubGlobal("WebSocket", FakeSocket);
  onTestFinished(() => void vi.unstubAllGlobals());
}

/** The socket of the n-th attempt, once it has said open. */
export async function socket(n: number): Promise<FakeSocket> {
  return vi.waitFor(() => {
    const s = FakeSocket.all[n];
    if (s === undefined || s.sent("open").length === 0) throw new Error(`no attempt ${n}; there were ${FakeSocket.all.length}`);
    return s;
  }, 60_000);
}
