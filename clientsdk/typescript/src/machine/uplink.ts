/**
 * The upload half as a pure function: events in, the next state and actions
 * out. No I/O, no clock. Its transition table is in SPEC.md.
 */
import type { Backoff } from "./backoff.js";
import { delayAfter } from "./backoff.js";

/**
 * off: nobody asked to be connected. idle: nothing to do. checking: looking at
 * the queue. uploading: the app's function runs. requesting: asking the server
 * for a write checkpoint. settling: storing it. waiting: until the next try.
 */
export type UpPhase = "off" | "idle" | "checking" | "uploading" | "requesting" | "settling" | "waiting";

/** What happened. Results carry the round they belong to; those of an earlier one are ignored. */
export type UpEvent =
  | { readonly type: "Start" }
  | { readonly type: "Stop" }
  /** The queue may have changed. */
  | { readonly type: "Wrote" }
  /** The server was reached. */
  | { readonly type: "StreamUp" }
  /** A valid completion on this stream waits for a write checkpoint asked for earlier. */
  | { readonly type: "Held"; readonly stream: number }
  | {
      readonly type: "Inspected";
      readonly round: number;
      /** Entries waiting, the first one's number, and the newest one's ever. */
      readonly queued: number;
      readonly head: bigint;
      readonly last: bigint;
      /** No write checkpoint was asked for since the last write, nor did the backend give one. */
      readonly unacknowledged: boolean;
      /** The stream that is open, or was last. */
      readonly stream: number;
    }
  | { readonly type: "UploadReturned"; readonly round: number }
  | { readonly type: "UploadFailed"; readonly round: number; readonly error: Error }
  | { readonly type: "CheckpointReady"; readonly round: number; readonly id: bigint; readonly stream: number }
  | { readonly type: "CheckpointFailed"; readonly round: number; readonly error: Error }
  /** set is false if a write came in between. */
  | { readonly type: "TargetSet"; readonly round: number; readonly set: boolean }
  /** The local database refused Inspect or SetTarget. */
  | { readonly type: "LocalFailed"; readonly round: number; readonly error: Error }
  | { readonly type: "RetryFired"; readonly round: number };

export type UpAction =
  /** Reads the queue. Answered by Inspected or LocalFailed. */
  | { readonly type: "Inspect"; readonly round: number }
  /** Runs the app's function. Answered by UploadReturned or UploadFailed. */
  | { readonly type: "Upload"; readonly round: number }
  /** Cancels what Upload or RequestCheckpoint started. */
  | { readonly type: "CancelUpload" }
  /** Records an error with the oldest transaction. */
  | { readonly type: "NoteFailure"; readonly error: Error }
  /** Answered by CheckpointReady or CheckpointFailed. */
  | { readonly type: "RequestCheckpoint"; readonly round: number }
  /** Stores it, for everything written up to entry `last`. Answered by TargetSet or LocalFailed. */
  | { readonly type: "SetTarget"; readonly round: number; readonly id: bigint; readonly last: bigint }
  /** Publishes the completion that waited for the gate. */
  | { readonly type: "PublishPending" }
  | { readonly type: "StartRetry"; readonly round: number; readonly delay: number }
  | { readonly type: "StopRetry" };

export interface Uplink {
  readonly backoff: Backoff;
  /** The error of an upload function that returns without progress. */
  readonly stalled: Error;
  readonly phase: UpPhase;
  /** Number of the newest action that has an answer. */
  readonly round: number;
  /** In a row. */
  readonly failures: number;
  /** Something happened while busy: look at the queue once more. */
  readonly again: boolean;
  /** The write checkpoint asked for is to be asked for once more. */
  readonly renew: boolean;
  /** The first entry when the upload function was called; 0 if it was not. */
  readonly head: bigint;
  /** The newest entry when the queue was found empty. */
  readonly last: bigint;
  /** The stream the last write checkpoint was asked for on, or given by the backend. */
  readonly askedOn: number;
  readonly error: Error | null;
}

export interface UpStep {
  readonly state: Uplink;
  readonly actions: readonly UpAction[];
}

export function newUplink(backoff: Backoff, stalled: Error): Uplink {
  return { backoff, stalled, phase: "off", round: 0, failures: 0, again: false, renew: false, head: 0n, last: 0n, askedOn: 0, error: null };
}

type EventOf<T extends UpEvent["type"]> = Extract<UpEvent, { type: T }>;
type Cell<T extends UpEvent["type"]> = (s: Uplink, e: EventOf<T>) => UpStep;

const still = (state: Uplink): UpStep => ({ state, actions: [] });
const ignore = still;
const again = (s: Uplink): UpStep => still({ ...s, again: true });

/** Busy phases remember what happened; only their own result moves them on. */
const busy = {
  Start: ignore,
  Stop: stop,
  Wrote: again,
  StreamUp: again,
  Held: (s: Uplink, e: EventOf<"Held">) => held(s, e, again),
  Inspected: ignore,
  UploadReturned: ignore,
  UploadFailed: ignore,
  CheckpointReady: ignore,
  CheckpointFailed: ignore,
  TargetSet: ignore,
  LocalFailed: ignore,
  RetryFired: ignore,
} satisfies { readonly [T in UpEvent["type"]]: Cell<T> };

/** Every phase × event: a new one of either does not compile until each cell is decided. */
const transitions: { readonly [P in UpPhase]: { readonly [T in UpEvent["type"]]: Cell<T> } } = {
  off: {
    ...busy,
    Start: (s) => check({ ...s, failures: 0, error: null }),
    Wrote: ignore,
    StreamUp: ignore,
    Held: ignore,
  },
  idle: { ...busy, Wrote: check, StreamUp: check, Held: (s, e) => held(s, e, check) },
  checking: { ...busy, Inspected: inspected, LocalFailed: (s, e) => wait(s, e.error) },
  uploading: {
    ...busy,
    UploadReturned: check,
    UploadFailed: (s, e) => before({ type: "NoteFailure", error: e.error }, wait({ ...s, head: 0n }, e.error)),
  },
  requesting: {
    ...busy,
    CheckpointReady: (s, e) => {
      const state: Uplink = { ...s, phase: "settling", askedOn: e.stream, round: s.round + 1 };
      return { state, actions: [{ type: "SetTarget", round: state.round, id: e.id, last: s.last }] };
    },
    CheckpointFailed: (s, e) => wait(s, e.error),
  },
  settling: {
    ...busy,
    TargetSet: (s) => {
      // Also if it is not set: a number of the backend may have been reached.
      return before({ type: "PublishPending" }, check({ ...s, failures: 0, error: null }));
    },
    LocalFailed: (s, e) => wait(s, e.error),
  },
  // A failing upload is retried at its time, unless the server has been
  // reached, which tells that the network is back.
  waiting: {
    ...busy,
    Wrote: ignore,
    StreamUp: wake,
    Held: (s, e) => held(s, e, wake),
    RetryFired: check,
  },
};

/** Takes one event. */
export function stepUplink<T extends UpEvent["type"]>(s: Uplink, e: EventOf<T>): UpStep {
  if ("round" in e && e.round !== s.round) return still(s);
  const cell: Cell<T> = transitions[s.phase][e.type as T];
  return cell(s, e);
}

const before = (action: UpAction, step: UpStep): UpStep => ({ state: step.state, actions: [action, ...step.actions] });

function check(s: Uplink): UpStep {
  const state: Uplink = { ...s, phase: "checking", again: false, round: s.round + 1 };
  return { state, actions: [{ type: "Inspect", round: state.round }] };
}

function wake(s: Uplink): UpStep {
  return before({ type: "StopRetry" }, check(s));
}

/** Asks again, once per stream. */
function held(s: Uplink, e: EventOf<"Held">, then: (s: Uplink) => UpStep): UpStep {
  return e.stream === s.askedOn ? still(s) : then({ ...s, askedOn: e.stream, renew: true });
}

function stop(s: Uplink): UpStep {
  const actions: UpAction[] = [];
  if (s.phase === "uploading" || s.phase === "requesting") actions.push({ type: "CancelUpload" });
  if (s.phase === "waiting") actions.push({ type: "StopRetry" });
  return { state: { ...s, phase: "off", again: false, renew: false, head: 0n, error: null, round: s.round + 1 }, actions };
}

function wait(s: Uplink, error: Error): UpStep {
  const state: Uplink = { ...s, phase: "waiting", error, failures: s.failures + 1, round: s.round + 1 };
  return { state, actions: [{ type: "StartRetry", round: state.round, delay: delayAfter(s.backoff, state.failures) }] };
}

function inspected(s: Uplink, e: EventOf<"Inspected">): UpStep {
  if (e.queued > 0 && e.head === s.head) {
    return before({ type: "NoteFailure", error: s.stalled }, wait({ ...s, head: 0n }, s.stalled));
  }
  // The last call got rid of something.
  const fresh: Uplink = s.head === 0n ? s : { ...s, head: 0n, failures: 0, error: null };
  if (e.queued > 0) {
    const state: Uplink = { ...fresh, phase: "uploading", head: e.head, round: s.round + 1 };
    return { state, actions: [{ type: "Upload", round: state.round }] };
  }
  if (e.unacknowledged || (s.renew && s.head === 0n)) {
    const state: Uplink = { ...fresh, phase: "requesting", renew: false, last: e.last, round: s.round + 1 };
    return { state, actions: [{ type: "RequestCheckpoint", round: state.round }] };
  }
  // After an upload the backend gave the number: as if it had been asked for on this stream.
  const asked: Uplink = s.head === 0n ? s : { ...s, renew: false, askedOn: e.stream, head: 0n };
  const next = s.again ? check(asked) : still({ ...asked, phase: "idle", failures: 0, error: null });
  // What has come since may contain it.
  return s.head !== 0n || s.failures > 0 ? before({ type: "PublishPending" }, next) : next;
}
