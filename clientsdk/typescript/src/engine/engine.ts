import type { DownAction, DownEvent, Downlink } from "../machine/downlink.js";
import { newDownlink, stepDownlink } from "../machine/downlink.js";
import type { UpAction, UpEvent, Uplink } from "../machine/uplink.js";
import { newUplink, stepUplink } from "../machine/uplink.js";
import { decodeLine } from "../protocol/decode.js";
import type { OpenRequest, StreamSelection } from "../protocol/frames.js";
import { ackFrame, streamsFrame, tokenFrame } from "../protocol/frames.js";
import type { SyncStatus } from "../status.js";
import { gateState, setTarget } from "../store/gate.js";
import { positions, syncTimes } from "../store/positions.js";
import { publishPending } from "../store/publish.js";
import { noteFailure } from "../store/queue.js";
import type { Store } from "../store/store.js";
import { expireStreams, streamSelection } from "../store/streams.js";
import { Applier, failure } from "./applier.js";
import type { Credentials } from "./credentials.js";
import { CredentialsCache } from "./credentials.js";
import { HttpStream } from "./http.js";
import type { Transport } from "./route.js";
import { Route } from "./route.js";
import type { SyncStream } from "./stream.js";
import { DEFAULT_SILENCE } from "./stream.js";
import type { Turn } from "./turn.js";
import { pause } from "./turn.js";
import { webSocketOpens, WebSocketStream } from "./websocket.js";

/** How a connection behaves; what is left out has a default. Milliseconds. */
export interface ConnectOptions {
  /** Client parameters the sync rules may use; unverified. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  /** False leaves out streams that are given without asking. */
  readonly includeDefaultStreams?: boolean;
  /** Shown by the server in its list of sessions. */
  readonly appMetadata?: Readonly<Record<string, string>>;
  /** Bounds of the wait between tries, which doubles with each failure in a row, less up to half of it at random. 1 s and 1 min. */
  readonly retryMin?: number;
  readonly retryMax?: number;
  /** How long the server may say nothing. 50 s. */
  readonly silence?: number;
  /** What carries the stream. "auto": a WebSocket, and HTTP where none gets through. */
  readonly transport?: "auto" | Transport;
  /** Skips recomputing each op's checksum, for servers with another function than Millrace's. Sums per bucket are compared in any case. */
  readonly trustOpChecksums?: boolean;
}

/** The app's part, wherever it runs. */
export interface EngineConnector {
  readonly fetchCredentials: (signal: AbortSignal) => Promise<Credentials | null>;
  readonly uploadData: (signal: AbortSignal) => Promise<void>;
}

/** What an engine is part of. */
export interface EngineHost {
  readonly store: Store;
  readonly turn: Turn;
  readonly report: (change: Partial<SyncStatus>) => void;
  /** Version of the list of subscriptions. */
  readonly streamsVersion: () => number;
  readonly streamsExpired: () => void;
}

type Job =
  | { readonly type: "down"; readonly event: DownEvent }
  | { readonly type: "up"; readonly event: UpEvent }
  | { readonly type: "line"; readonly attempt: number; readonly text: string }
  | { readonly type: "consumed"; readonly stream: SyncStream; readonly bytes: number }
  /** Nothing has come for a while. */
  | { readonly type: "paused" }
  | { readonly type: "idle" }
  | { readonly type: "woken" };

/** After so many milliseconds of work, messages that wait are let in. */
const SLICE = 12;
/** After so many milliseconds without anything new, what was collected is stored though it is little. */
const PAUSE = 100;
/** After so many, the log of a bulk is tidied up. */
const IDLE = 500;

/**
 * Runs the two state machines of one connection: a loop steps them and does all
 * storage actions, in turns; everything that waits for the world reports to it.
 */
export class Engine {
  private down: Downlink;
  private up: Uplink;
  private readonly apply: Applier;
  private readonly creds: CredentialsCache;
  private readonly stopping = new AbortController();
  private readonly inbox: Job[] = [];
  private wakeLoop: (() => void) | null = null;
  private stream: SyncStream | null = null;
  private downTimer: ReturnType<typeof setTimeout> | undefined;
  private upTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly route: Route;
  private probeTimer: ReturnType<typeof setTimeout> | undefined;
  private uploading: AbortController | null = null;
  private held = false;
  private covered = 0;
  private done: Promise<void> = Promise.resolve();

  constructor(
    private readonly host: EngineHost,
    private readonly connector: EngineConnector,
    private readonly options: ConnectOptions,
  ) {
    const min = options.retryMin ?? 1000;
    const backoff = { min, max: Math.max(options.retryMax ?? 60_000, min) };
    this.down = newDownlink(backoff);
    this.up = newUplink(backoff, new Error("uploadData returned without completing the oldest transaction: call complete or reject on it, or throw"));
    this.apply = new Applier(host.store, options.trustOpChecksums !== true);
    this.creds = new CredentialsCache(connector.fetchCredentials);
    const { transport = "auto" } = options;
    this.route = new Route(transport === "auto" ? null : transport);
  }

  start(): void {
    this.post({ type: "woken" }, { type: "down", event: { type: "Connect" } }, { type: "up", event: { type: "Start" } });
    this.done = this.loop();
  }

  /** Ends everything and waits for it. */
  async stop(): Promise<void> {
    this.stopping.abort(new Error("disconnected"));
    this.wakeLoop?.();
    await this.done;
  }

  /** Tells that the queue or the list of streams may have changed. */
  wake(): void {
    if (!this.inbox.some((j) => j.type === "woken")) this.post({ type: "woken" });
  }

  /** Ends a wait between tries. */
  retryNow(): void {
    this.post({ type: "down", event: { type: "Connect" } });
  }

  /** What is stored has changed under the stream: opens another with the positions stored now. */
  resync(): void {
    this.postDown({ type: "Ended", attempt: this.down.attempt, reason: "lost", error: new Error("a stored bucket was found wrong and is downloaded again") });
    this.retryNow();
  }

  private post(...jobs: Job[]): void {
    if (this.stopping.signal.aborted) return;
    this.inbox.push(...jobs);
    this.wakeLoop?.();
  }

  private postDown(event: DownEvent): void {
    this.post({ type: "down", event });
  }

  private postUp(event: UpEvent): void {
    this.post({ type: "up", event });
  }

  private get stopped(): boolean {
    return this.stopping.signal.aborted;
  }

  /** Wait for a job, do it, report. */
  private async loop(): Promise<void> {
    let since = performance.now();
    while (!this.stopped) {
      const job = this.inbox.shift();
      if (job === undefined) {
        // What was collected of a stream is stored once the stream pauses: large transactions are quicker.
        const paused = this.apply.empty ? undefined : setTimeout(() => this.post({ type: "paused" }), PAUSE);
        const idle = this.host.store.untidy ? setTimeout(() => this.post({ type: "idle" }), IDLE) : undefined;
        await new Promise<void>((resolve) => (this.wakeLoop = resolve));
        this.wakeLoop = null;
        clearTimeout(paused);
        clearTimeout(idle);
        since = performance.now();
        continue;
      }
      await this.inTurn(() => this.do(job));
      if (performance.now() - since > SLICE) {
        await pause();
        since = performance.now();
      }
    }
    await this.host.turn.run(() => this.leave());
  }

  private async inTurn(fn: () => void): Promise<void> {
    await this.host.turn.run(() => {
      if (this.stopped) return;
      try {
        fn();
      } catch (e) {
        this.step(failure(this.down.attempt, e));
      }
    });
    this.report();
  }

  private do(job: Job): void {
    switch (job.type) {
      case "down":
        return this.step(job.event);
      case "up":
        return this.stepUp(job.event);
      case "line":
        return this.line(job.attempt, job.text);
      case "consumed":
        return job.stream.consumed(job.bytes);
      case "idle":
        return this.host.store.tidy();
      case "paused":
        return this.answer(this.apply.flush(this.down.attempt));
      case "woken":
        this.step({ type: "SubscriptionsChanged", version: this.host.streamsVersion() });
        return this.stepUp({ type: "Wrote" });
    }
  }

  /** Ends what the machines have running. */
  private leave(): void {
    this.apply.flush(this.down.attempt);
    this.step({ type: "Disconnect" });
    this.stepUp({ type: "Stop" });
    this.host.store.bulk(false);
    clearTimeout(this.downTimer);
    clearTimeout(this.upTimer);
    clearTimeout(this.probeTimer);
    this.report();
  }

  private line(attempt: number, text: string): void {
    if (attempt !== this.down.attempt) return;
    let line;
    try {
      line = decodeLine(text);
    } catch (e) {
      this.closeStream();
      return this.step({ type: "Ended", attempt, reason: "protocol", error: new Error("a line of the sync stream: " + message(e)) });
    }
    // The server's verdict on the request comes with the first line.
    if (this.down.phase === "opening") this.step({ type: "Opened", attempt, inBand: this.stream?.inBand === true });
    if (line.type === "checkpoint_request") return this.stream?.answer(line.id);
    // About a token is what the machine knows how to mend.
    if (line.type === "error" && !line.fatal && !line.code.startsWith("PSYNC_S21")) {
      this.stream?.refuse(new Error(`${line.code}: ${line.description}`));
    }
    this.step({ type: "Received", attempt, line });
  }

  /**
   * Runs the download machine and does what it decides. Storage actions answer
   * at once; their answer is stepped before anything else, and after one that
   * ends the stream the rest of the step is void.
   */
  private step(event: DownEvent): void {
    const before = this.down.phase;
    const { state, actions } = stepDownlink(this.down, event);
    this.down = state;
    for (const a of actions) {
      const answer = this.act(a);
      if (answer === null) continue;
      this.step(answer);
      if (answer.type !== "Applied") break;
    }
    this.follow(before, event);
  }

  private answer(event: DownEvent | null): void {
    if (event !== null) this.step(event);
  }

  /** Tells the upload machine what became of the download. */
  private follow(before: Downlink["phase"], event: DownEvent): void {
    if (event.type === "Opened" && before === "opening" && this.down.phase === "syncing") this.stepUp({ type: "StreamUp" });
    if (event.type === "Received" && event.line.type === "token_expires_in") {
      this.attempt(() => {
        if (expireStreams(this.host.store)) this.host.streamsExpired();
      });
    }
    if (event.type === "Applied") {
      if (event.full) {
        this.held = !event.published;
        this.apply.progress = { downloaded: 0, total: 0 };
        if (event.published) this.covered = this.down.covered;
      }
      if (event.published) this.noteSynced();
      // A request that is under way is newer than what this completion lacks.
      const asking = this.up.phase === "requesting" || this.up.phase === "settling";
      if (this.held && !asking) this.stepUp({ type: "Held", stream: event.attempt });
    }
  }

  private noteSynced(): void {
    this.attempt(() => this.host.report(syncedStatus(this.host.store)));
  }

  private act(a: DownAction): DownEvent | null {
    switch (a.type) {
      case "FetchCredentials":
        this.creds.get(a.fresh, this.stopping.signal).then(
          () => this.postDown({ type: "CredentialsReady", attempt: a.attempt }),
          (e: unknown) => this.postDown({ type: "CredentialsFailed", attempt: a.attempt, error: new Error("fetch credentials: " + message(e)) }),
        );
        return null;
      case "OpenStream":
        return this.openStream(a.attempt, a.streamsVersion);
      case "CloseStream":
        this.apply.discard();
        this.closeStream();
        return null;
      case "SendToken":
        if (this.creds.cached !== null) this.stream?.send(tokenFrame(this.creds.cached.token));
        return null;
      case "SendStreams":
        this.stream?.send(streamsFrame(a.version, this.selection()));
        return null;
      case "SendAck":
        this.stream?.send(ackFrame(a.opId));
        return null;
      case "StartTimer":
        this.closeStream();
        clearTimeout(this.downTimer);
        this.downTimer = setTimeout(() => this.postDown({ type: "TimerFired", attempt: a.attempt }), jittered(a.delay));
        return null;
      case "StopTimer":
        clearTimeout(this.downTimer);
        return null;
      case "Stage":
        return this.apply.add(a.data) ? this.apply.flush(this.down.attempt) : null;
      case "Begin":
      case "Complete":
      case "DropBuckets":
        return this.apply.run(this.down.attempt, a);
    }
  }

  private selection(): StreamSelection {
    return { includeDefaults: this.options.includeDefaultStreams !== false, subscriptions: streamSelection(this.host.store) };
  }

  /** Builds the request from what is stored and opens a stream with it. */
  private openStream(attempt: number, streamsVersion: number): DownEvent | null {
    const creds = this.creds.cached;
    if (creds === null) return failure(attempt, new Error("there are no credentials"));
    let request: OpenRequest;
    try {
      request = {
        buckets: positions(this.host.store), clientId: this.host.store.clientId, streams: this.selection(), streamsVersion,
        parameters: this.options.parameters === undefined ? null : JSON.stringify(this.options.parameters), appMetadata: this.options.appMetadata ?? {},
      };
    } catch (e) {
      return failure(attempt, e);
    }
    const transport = this.route.next(Date.now());
    try {
      const Stream = transport === "http" ? HttpStream : WebSocketStream;
      const stream: SyncStream = new Stream(creds.endpoint, creds.token, request, this.options.silence ?? DEFAULT_SILENCE, {
        frame: (lines, bytes) => {
          this.reached(transport, creds.endpoint);
          this.post(...lines.map((text): Job => ({ type: "line", attempt, text })), { type: "consumed", stream, bytes });
        },
        ended: (reason, error, reached) => {
          if (!reached) this.route.noted(transport, false, Date.now());
          this.postDown({ type: "Ended", attempt, reason, error });
        },
      });
      this.stream = stream;
    } catch (e) {
      return { type: "Ended", attempt, reason: "protocol", error: new Error("open the sync stream: " + message(e)) };
    }
    return null;
  }

  /** A stream brings lines. Beside one over HTTP a WebSocket is tried now and then, and taken once it opens. */
  private reached(transport: Transport, endpoint: string): void {
    this.route.noted(transport, true, Date.now());
    const wait = transport === "http" ? this.route.probeIn(Date.now()) : null;
    if (wait === null || this.probeTimer !== undefined) return;
    this.probeTimer = setTimeout(() => {
      void webSocketOpens(endpoint).then((opens) => {
        this.probeTimer = undefined;
        this.route.noted("websocket", opens, Date.now());
        if (opens && this.stream?.inBand === false) this.post({ type: "down", event: { type: "Disconnect" } }, { type: "down", event: { type: "Connect" } });
      });
    }, wait);
  }

  private closeStream(): void {
    this.stream?.close();
    this.stream = null;
  }

  private stepUp(event: UpEvent): void {
    const { state, actions } = stepUplink(this.up, event);
    this.up = state;
    for (const a of actions) {
      const answer = this.actUp(a);
      if (answer !== null) this.stepUp(answer);
    }
  }

  private actUp(a: UpAction): UpEvent | null {
    const { store } = this.host;
    switch (a.type) {
      case "Inspect":
        return this.local(a.round, () => ({ type: "Inspected", round: a.round, stream: this.down.attempt, ...gateState(store) }));
      case "Upload":
        this.background(
          (signal) => this.connector.uploadData(signal),
          () => ({ type: "UploadReturned", round: a.round }),
          (e) => ({ type: "UploadFailed", round: a.round, error: new Error("upload: " + message(e)) }),
        );
        return null;
      case "RequestCheckpoint": {
        const { stream, down } = this;
        this.background(
          async (signal) => {
            if (stream === null || down.phase !== "syncing") throw new Error("the server is not reached");
            return stream.writeCheckpoint(signal);
          },
          (id) => ({ type: "CheckpointReady", round: a.round, id, stream: down.attempt }),
          (e) => ({ type: "CheckpointFailed", round: a.round, error: new Error("write checkpoint: " + message(e)) }),
        );
        return null;
      }
      case "CancelUpload":
        this.uploading?.abort(new Error("disconnected"));
        return null;
      case "NoteFailure":
        this.attempt(() => noteFailure(store, a.error));
        return null;
      case "SetTarget":
        return this.local(a.round, () => ({ type: "TargetSet", round: a.round, set: setTarget(store, a.id, a.last) }));
      case "PublishPending":
        this.attempt(() => {
          if (!publishPending(store)) return;
          this.held = false;
          this.covered = this.down.covered;
          this.noteSynced();
        });
        return null;
      case "StartRetry":
        clearTimeout(this.upTimer);
        this.upTimer = setTimeout(() => this.postUp({ type: "RetryFired", round: a.round }), jittered(a.delay));
        return null;
      case "StopRetry":
        clearTimeout(this.upTimer);
        return null;
    }
  }

  private local(round: number, fn: () => UpEvent): UpEvent {
    try {
      return fn();
    } catch (e) {
      return { type: "LocalFailed", round, error: new Error("local database: " + message(e)) };
    }
  }

  /** Does what a later event makes good if the local database refuses it. */
  private attempt(fn: () => void): void {
    try {
      fn();
    } catch (e) {
      console.warn("Millrace: the local database refused:", e);
    }
  }

  /** Runs what CancelUpload cancels. */
  private background<T>(run: (signal: AbortSignal) => Promise<T>, done: (v: T) => UpEvent, failed: (e: unknown) => UpEvent): void {
    const abort = new AbortController();
    this.uploading = abort;
    run(abort.signal).then(
      (v) => this.postUp(done(v)),
      (e: unknown) => this.postUp(failed(e)),
    );
  }

  /** Shows the machines' state. */
  private report(): void {
    const { down, up } = this;
    const p = this.apply.progress;
    const downloading = down.target !== null && !down.completed && p.total > p.downloaded;
    this.host.report({
      connected: down.connected,
      connecting: !down.connected && (down.phase === "authorizing" || down.phase === "opening"),
      downloadProgress: downloading ? p : null,
      held: this.held,
      uploading: up.phase === "uploading" || up.phase === "requesting" || up.phase === "settling",
      downloadError: down.error,
      uploadError: up.error,
      warning: down.warning,
      streams: down.streams.map((s) => ({ name: s.name, isDefault: s.isDefault, errors: s.errors.map((e) => e.message) })),
      coveredStreams: this.covered,
    });
  }
}

/** What the database itself knows of being in sync. */
export function syncedStatus(store: Store): Partial<SyncStatus> {
  const { full, partial, opId } = syncTimes(store);
  return {
    hasSynced: full !== null, lastSyncedAt: full === null ? null : new Date(full), checkpoint: opId,
    partial: new Map([...partial].map(([priority, at]) => [priority, new Date(at)])),
  };
}

/** Takes up to half of a delay off, so that a fleet does not come back in step. */
const jittered = (delay: number): number => delay - Math.random() * (delay / 2);

const message = (e: unknown): string => (e instanceof Error ? e.message : String(e));
