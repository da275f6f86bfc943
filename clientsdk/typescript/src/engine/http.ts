import type { EndReason } from "../machine/downlink.js";
import type { OpenRequest } from "../protocol/frames.js";
import { STREAM_PATH, streamRequest, WRITE_CHECKPOINT_PATH } from "../protocol/frames.js";
import type { StreamHandlers, SyncStream } from "./stream.js";
import { below, CHECKPOINT_TIMEOUT, CREDIT_BYTES, MAX_FRAME_BYTES, OPEN_TIMEOUT } from "./stream.js";

/** An answer of the server that is no stream. */
class RefusedError extends Error {
  constructor(
    message: string,
    readonly reason: EndReason,
  ) {
    super(message);
  }
}

/**
 * One open HTTP stream, for networks that let no WebSocket through: the lines
 * are the body of a response, whose reading waits while too much is not stored
 * yet.
 */
export class HttpStream implements SyncStream {
  readonly inBand = false;
  private readonly aborting = new AbortController();
  private silent: ReturnType<typeof setTimeout> | undefined;
  private ahead = 0;
  private readOn: () => void = () => {};
  private reached = false;
  private over = false;

  constructor(
    private readonly endpoint: string,
    private readonly token: string,
    private readonly request: OpenRequest,
    private readonly silence: number,
    private readonly handlers: StreamHandlers,
  ) {
    const url = below(endpoint, STREAM_PATH);
    const patience = Math.min(OPEN_TIMEOUT, silence);
    this.silent = setTimeout(() => this.end("lost", new Error(`the sync stream did not open within ${patience / 1000} s`)), patience);
    this.read(url).then(
      () => this.end("lost", new Error("the server ended the sync stream")),
      (e: unknown) => this.end(e instanceof RefusedError ? e.reason : "lost", new Error("the sync stream: " + (e instanceof Error ? e.message : String(e)))),
    );
  }

  send(): void {}
  answer(): void {}
  refuse(): void {}

  consumed(bytes: number): void {
    this.ahead -= bytes;
    if (this.ahead <= CREDIT_BYTES) this.readOn();
  }

  async writeCheckpoint(signal: AbortSignal): Promise<bigint> {
    const url = below(this.endpoint, WRITE_CHECKPOINT_PATH);
    url.searchParams.set("client_id", this.request.clientId);
    const late = AbortSignal.timeout(CHECKPOINT_TIMEOUT);
    const res = await fetch(url, { headers: this.headers(), cache: "no-store", signal: AbortSignal.any([signal, this.aborting.signal, late]) });
    if (!res.ok) throw await refused(res);
    const id = ((await res.json()) as { data?: { write_checkpoint?: unknown } }).data?.write_checkpoint;
    if (typeof id !== "string" || !/^[0-9]{1,19}$/.test(id)) throw new Error("the server gave no write checkpoint");
    return BigInt(id);
  }

  close(): void {
    this.over = true;
    clearTimeout(this.silent);
    this.readOn();
    this.aborting.abort(new Error("the stream ended"));
  }

  private headers(): Record<string, string> {
    return { authorization: `Bearer ${this.token}`, "content-type": "application/json" };
  }

  private async read(url: URL): Promise<void> {
    const res = await fetch(url, { method: "POST", headers: this.headers(), body: streamRequest(this.request), cache: "no-store", signal: this.aborting.signal });
    if (!res.ok) throw await refused(res);
    if (res.body === null) throw new Error("the answer has no body");
    this.reached = true;
    this.heard();
    const reader = res.body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    while (!this.over) {
      const { done, value } = await reader.read();
      if (done) return;
      this.heard();
      const text = decoder.decode(value, { stream: true });
      const end = text.lastIndexOf("\n");
      this.ahead += value.byteLength;
      const whole = end < 0 ? [] : (rest + text.slice(0, end)).split("\n").filter((l) => l.trim() !== "");
      rest = end < 0 ? rest + text : text.slice(end + 1);
      if (rest.length > MAX_FRAME_BYTES) throw new RefusedError(`a line has more than ${MAX_FRAME_BYTES} bytes`, "protocol");
      if (!this.over) this.handlers.frame(whole, value.byteLength);
      if (this.ahead > CREDIT_BYTES) await new Promise<void>((resolve) => (this.readOn = resolve));
    }
  }

  private heard(): void {
    clearTimeout(this.silent);
    this.silent = setTimeout(() => this.end("lost", new Error(`the server was silent for ${this.silence / 1000} s`)), this.silence);
  }

  private end(reason: EndReason, error: Error): void {
    if (this.over) return;
    this.close();
    this.handlers.ended(reason, error, this.reached);
  }
}

/** What an answer other than success means. Its text is the server's; it holds no secrets. */
async function refused(res: Response): Promise<RefusedError> {
  const said = (await res.text().catch(() => "")).slice(0, 300);
  const reason: EndReason = res.status === 401 ? "unauthorized" : res.status === 429 || res.status === 503 ? "overloaded" : res.status >= 500 ? "lost" : "protocol";
  return new RefusedError(`the server answered ${res.status}${said === "" ? "" : ": " + said}`, reason);
}
