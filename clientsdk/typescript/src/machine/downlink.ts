/**
 * The download half as a pure function: events in, the next state and actions
 * out. No I/O, no clock. SPEC.md holds its transition table, which a test
 * compares with this code and with the Go SDK's.
 */
import type { Bucket, Data, Line, OpId, Stream } from "../protocol/lines.js";
import type { Backoff } from "./backoff.js";
import { delayAfter } from "./backoff.js";

/**
 * offline: nobody asked to be connected. authorizing: waiting for credentials.
 * opening: waiting for the server to accept the stream. syncing: a stream is
 * open. waiting: until the next attempt.
 */
export type DownPhase = "offline" | "authorizing" | "opening" | "syncing" | "waiting";

/**
 * lost: network trouble, or closed without a word. unauthorized: the token was
 * refused or has expired. restarting: the server goes away for a moment.
 * overloaded: it has no room. protocol: one side did not understand the other.
 */
export type EndReason = "lost" | "unauthorized" | "restarting" | "overloaded" | "protocol";

/**
 * What happened. Results of actions carry the attempt they belong to; those of
 * an earlier attempt are ignored.
 */
export type DownEvent =
  | { readonly type: "Connect" }
  | { readonly type: "Disconnect" }
  | { readonly type: "CredentialsReady"; readonly attempt: number }
  | { readonly type: "CredentialsFailed"; readonly attempt: number; readonly error: Error }
  /** inBand: the stream takes messages from the client while it is open. */
  | { readonly type: "Opened"; readonly attempt: number; readonly inBand: boolean }
  | { readonly type: "Received"; readonly attempt: number; readonly line: Line }
  | { readonly type: "Ended"; readonly attempt: number; readonly reason: EndReason; readonly error: Error }
  /** A completion was valid and is stored; published: readers see it. */
  | { readonly type: "Applied"; readonly attempt: number; readonly opId: OpId; readonly full: boolean; readonly published: boolean }
  /** Ops or sums of these buckets are wrong. */
  | { readonly type: "Corrupt"; readonly attempt: number; readonly buckets: readonly string[]; readonly error: Error }
  | { readonly type: "StorageFailed"; readonly attempt: number; readonly error: Error }
  | { readonly type: "TimerFired"; readonly attempt: number }
  /** The app wants other streams; versions grow. */
  | { readonly type: "SubscriptionsChanged"; readonly version: number };

/** A checked completion: everything of the checkpoint, or of its buckets up to a priority. */
export interface Complete {
  readonly type: "Complete";
  readonly opId: OpId;
  readonly writeCheckpoint: bigint;
  /** The ones covered. */
  readonly buckets: readonly Bucket[];
  readonly full: boolean;
  readonly priority: number;
}

/** Makes the stored buckets those of a new target; whole: `updated` lists all of them. */
export interface Begin {
  readonly type: "Begin";
  readonly whole: boolean;
  readonly updated: readonly Bucket[];
  readonly removed: readonly string[];
}

/** What to do, in the order given; storage actions one at a time. */
export type DownAction =
  /** Answered by CredentialsReady or CredentialsFailed; fresh: not a token given before. */
  | { readonly type: "FetchCredentials"; readonly attempt: number; readonly fresh: boolean }
  /** Opens a stream with the positions stored now. Answered by Opened or Ended. */
  | { readonly type: "OpenStream"; readonly attempt: number; readonly streamsVersion: number }
  | { readonly type: "CloseStream"; readonly attempt: number }
  | { readonly type: "SendToken" }
  | { readonly type: "SendStreams"; readonly version: number }
  | { readonly type: "SendAck"; readonly opId: OpId }
  | Begin
  /** Stores ops. May be answered by Corrupt. */
  | { readonly type: "Stage"; readonly data: Data }
  /** Checks a completion and publishes it if the gate is open. Answered by Applied or Corrupt. */
  | Complete
  /** Forgets buckets, so that the next request asks for them from the start. */
  | { readonly type: "DropBuckets"; readonly names: readonly string[] }
  /** Asks for TimerFired after about so many milliseconds. */
  | { readonly type: "StartTimer"; readonly attempt: number; readonly delay: number }
  | { readonly type: "StopTimer" };

/** The checkpoint being downloaded. */
export interface Target {
  readonly opId: OpId;
  readonly writeCheckpoint: bigint;
  readonly buckets: ReadonlyMap<string, Bucket>;
}

export interface Downlink {
  readonly backoff: Backoff;
  readonly phase: DownPhase;
  /** Number of the present attempt to be in sync. */
  readonly attempt: number;
  /** Attempts in a row without a full completion. */
  readonly failures: number;
  /** A stream is open, or is being replaced without the app needing to know. */
  readonly connected: boolean;
  readonly inBand: boolean;
  /** The token at hand must not be used again. */
  readonly stale: boolean;
  /** A new token is being fetched while the stream goes on. */
  readonly refreshing: boolean;
  /** Newest version of the list of subscriptions, and the one the stream knows. */
  readonly wanted: number;
  readonly sent: number;
  /** The version the stream was opened with, and the one the target was made for. */
  readonly opened: number;
  readonly covered: number;
  /** null before the first checkpoint of a stream. */
  readonly target: Target | null;
  /** Everything of the target is stored. */
  readonly completed: boolean;
  readonly streams: readonly Stream[];
  /** The last failure; null once a completion succeeded. */
  readonly error: Error | null;
  /** The last word of the server that did not end the stream. */
  readonly warning: Error | null;
}

export interface DownStep {
  readonly state: Downlink;
  readonly actions: readonly DownAction[];
}

export function newDownlink(backoff: Backoff): Downlink {
  return {
    backoff, phase: "offline", attempt: 0, failures: 0, connected: false, inBand: false, stale: false, refreshing: false,
    wanted: 0, sent: 0, opened: 0, covered: 0, target: null, completed: false, streams: [], error: null, warning: null,
  };
}

/** Remaining life of a token, in seconds, at which a new one is asked for. */
export const REFRESH_SECONDS = 30;

/** After how many failures in a row credentials are asked for again: the server may have moved. */
export const ASK_AGAIN_AFTER = 3;

type EventOf<T extends DownEvent["type"]> = Extract<DownEvent, { type: T }>;
type Cell<T extends DownEvent["type"]> = (s: Downlink, e: EventOf<T>) => DownStep;

const still = (state: Downlink): DownStep => ({ state, actions: [] });
const ignore = still;

/** Every phase × event: a new one of either does not compile until each cell is decided. */
const transitions: { readonly [P in DownPhase]: { readonly [T in DownEvent["type"]]: Cell<T> } } = {
  offline: {
    Connect: (s) => attempt({ ...s, failures: 0, error: null }),
    Disconnect: disconnect,
    CredentialsReady: ignore,
    CredentialsFailed: ignore,
    Opened: ignore,
    Received: ignore,
    Ended: ignore,
    Applied: ignore,
    Corrupt: ignore,
    StorageFailed: ignore,
    TimerFired: ignore,
    SubscriptionsChanged: noteSubscriptions,
  },
  authorizing: {
    Connect: ignore,
    Disconnect: disconnect,
    CredentialsReady: (s) => openStream({ ...s, stale: false, phase: "opening" }),
    CredentialsFailed: (s, e) => wait(s, e.error),
    Opened: ignore,
    Received: ignore,
    Ended: ignore,
    Applied: ignore,
    Corrupt: ignore,
    StorageFailed: ignore,
    TimerFired: ignore,
    SubscriptionsChanged: noteSubscriptions,
  },
  opening: {
    Connect: ignore,
    Disconnect: disconnect,
    CredentialsReady: ignore,
    CredentialsFailed: ignore,
    Opened: opened,
    Received: ignore,
    Ended: ended,
    Applied: ignore,
    Corrupt: ignore,
    StorageFailed: (s, e) => closeAndWait(s, e.error),
    TimerFired: ignore,
    SubscriptionsChanged: noteSubscriptions,
  },
  syncing: {
    Connect: ignore,
    Disconnect: disconnect,
    CredentialsReady: refreshed,
    CredentialsFailed: (s, e) => still(s.refreshing ? { ...s, refreshing: false, warning: e.error } : s),
    Opened: ignore,
    Received: (s, e) => received(s, e.line),
    Ended: ended,
    Applied: applied,
    Corrupt: (s, e) => closeAndWait(s, e.error, { type: "DropBuckets", names: e.buckets }),
    StorageFailed: (s, e) => closeAndWait(s, e.error),
    TimerFired: ignore,
    SubscriptionsChanged: (s, e) => (e.version <= s.wanted ? still(s) : sendStreams({ ...s, wanted: e.version })),
  },
  waiting: {
    Connect: (s) => before({ type: "StopTimer" }, attempt(s)),
    Disconnect: disconnect,
    CredentialsReady: ignore,
    CredentialsFailed: ignore,
    Opened: ignore,
    Received: ignore,
    Ended: ignore,
    Applied: ignore,
    Corrupt: ignore,
    StorageFailed: ignore,
    TimerFired: (s) => attempt(s),
    SubscriptionsChanged: noteSubscriptions,
  },
};

/** Takes one event. */
export function stepDownlink<T extends DownEvent["type"]>(s: Downlink, e: EventOf<T>): DownStep {
  if ("attempt" in e && e.attempt !== s.attempt) return still(s);
  const cell: Cell<T> = transitions[s.phase][e.type as T];
  return cell(s, e);
}

const before = (action: DownAction, step: DownStep): DownStep => ({ state: step.state, actions: [action, ...step.actions] });

/** Enters a phase in which no stream is open. */
function reset(s: Downlink, phase: DownPhase): Downlink {
  return { ...s, phase, inBand: false, refreshing: false, target: null, completed: false };
}

/** Starts from the credentials. */
function attempt(s: Downlink): DownStep {
  const state = { ...reset(s, "authorizing"), attempt: s.attempt + 1 };
  return { state, actions: [{ type: "FetchCredentials", attempt: state.attempt, fresh: state.stale }] };
}

/** Ends an attempt that failed. */
function wait(s: Downlink, error: Error): DownStep {
  const failures = s.failures + 1;
  const state = { ...reset(s, "waiting"), connected: false, failures, error, stale: s.stale || failures % ASK_AGAIN_AFTER === 0 };
  return { state, actions: [{ type: "StartTimer", attempt: s.attempt, delay: delayAfter(s.backoff, state.failures) }] };
}

function closeAndWait(s: Downlink, error: Error, ...more: DownAction[]): DownStep {
  const { state, actions } = wait(s, error);
  return { state, actions: [{ type: "CloseStream", attempt: s.attempt }, ...more, ...actions] };
}

function disconnect(s: Downlink): DownStep {
  const actions: DownAction[] = [];
  if (s.phase === "opening" || s.phase === "syncing") actions.push({ type: "CloseStream", attempt: s.attempt });
  if (s.phase === "waiting") actions.push({ type: "StopTimer" });
  // What is still under way belongs to the past: hence another attempt number.
  return { state: { ...reset(s, "offline"), attempt: s.attempt + 1, connected: false, error: null, warning: null }, actions };
}

function noteSubscriptions(s: Downlink, e: EventOf<"SubscriptionsChanged">): DownStep {
  return still(e.version <= s.wanted ? s : { ...s, wanted: e.version });
}

function openStream(s: Downlink): DownStep {
  const state = { ...s, sent: s.wanted, opened: s.wanted };
  return { state, actions: [{ type: "OpenStream", attempt: s.attempt, streamsVersion: s.wanted }] };
}

/** Replaces the stream by another without a disconnect in between. */
function reopen(s: Downlink): DownStep {
  return before({ type: "CloseStream", attempt: s.attempt }, openStream({ ...reset(s, "opening"), attempt: s.attempt + 1 }));
}

function refreshed(s: Downlink): DownStep {
  if (!s.refreshing) return still(s);
  const state = { ...s, stale: false, refreshing: false };
  return state.inBand ? { state, actions: [{ type: "SendToken" }] } : reopen(state);
}

function opened(s: Downlink, e: EventOf<"Opened">): DownStep {
  const state: Downlink = { ...s, phase: "syncing", inBand: e.inBand, connected: true };
  return state.sent === state.wanted ? still(state) : sendStreams(state);
}

function sendStreams(s: Downlink): DownStep {
  if (!s.inBand) return reopen(s);
  return { state: { ...s, sent: s.wanted }, actions: [{ type: "SendStreams", version: s.wanted }] };
}

function ended(s: Downlink, e: EventOf<"Ended">): DownStep {
  const state = {
    ...s,
    stale: s.stale || e.reason === "unauthorized",
    failures: e.reason === "overloaded" ? Math.max(s.failures, 3) : s.failures,
  };
  return wait(state, e.error);
}

function applied(s: Downlink, e: EventOf<"Applied">): DownStep {
  if (!e.full) return still({ ...s, error: null });
  const state = { ...s, error: null, failures: 0, completed: true };
  return { state, actions: state.inBand ? [{ type: "SendAck", opId: e.opId }] : [] };
}

/** Ends a stream whose server does not keep to the protocol. */
function broken(s: Downlink, message: string): DownStep {
  return closeAndWait(s, new Error("the server broke the protocol: " + message));
}

function received(s: Downlink, line: Line): DownStep {
  switch (line.type) {
    case "checkpoint": {
      if (s.target !== null && line.lastOpId < s.target.opId) return broken(s, `checkpoint ${line.lastOpId} came after ${s.target.opId}`);
      const target = { opId: line.lastOpId, writeCheckpoint: line.writeCheckpoint, buckets: new Map(line.buckets.map((b) => [b.name, b])) };
      const covered = s.inBand && line.streamsVersion !== 0 ? line.streamsVersion : s.opened;
      return {
        state: { ...s, target, streams: line.streams, completed: false, covered },
        actions: [{ type: "Begin", whole: true, updated: line.buckets, removed: [] }],
      };
    }
    case "checkpoint_diff": {
      if (s.target === null) return broken(s, "a checkpoint_diff came before any checkpoint");
      if (line.lastOpId < s.target.opId) return broken(s, `checkpoint ${line.lastOpId} came after ${s.target.opId}`);
      const buckets = new Map(s.target.buckets);
      for (const name of line.removedBuckets) buckets.delete(name);
      for (const b of line.updatedBuckets) buckets.set(b.name, b);
      return {
        state: { ...s, target: { opId: line.lastOpId, writeCheckpoint: line.writeCheckpoint, buckets }, completed: false },
        actions: [{ type: "Begin", whole: false, updated: line.updatedBuckets, removed: line.removedBuckets }],
      };
    }
    case "data": {
      if (s.target === null) return broken(s, "data came before any checkpoint");
      if (!s.target.buckets.has(line.bucket)) return broken(s, `data came for bucket ${line.bucket}, which is not in the checkpoint`);
      const last = line.ops.at(-1);
      if (last !== undefined && last.id > s.target.opId) return broken(s, `op ${last.id} is beyond checkpoint ${s.target.opId}`);
      return { state: s, actions: [{ type: "Stage", data: line }] };
    }
    case "checkpoint_complete":
      return complete(s, line.type, line.lastOpId, null);
    case "partial_checkpoint_complete":
      return complete(s, line.type, line.lastOpId, line.priority);
    case "token_expires_in":
      return tokenExpires(s, line.seconds);
    case "error":
      return serverError(s, line.code, line.description, line.fatal);
    case "checkpoint_request": // the stream's own business
    case "unknown":
      return still(s);
  }
  return line satisfies never;
}

function complete(s: Downlink, word: string, lastOpId: OpId, priority: number | null): DownStep {
  if (s.target === null) return broken(s, `${word} came before any checkpoint`);
  if (lastOpId !== 0n && lastOpId !== s.target.opId) return broken(s, `${word} for ${lastOpId}, but the checkpoint is ${s.target.opId}`);
  const buckets = [...s.target.buckets.values()].filter((b) => priority === null || b.priority <= priority);
  const full = priority === null;
  return {
    state: s,
    actions: [{ type: "Complete", opId: s.target.opId, writeCheckpoint: full ? s.target.writeCheckpoint : 0n, buckets, full, priority: priority ?? 0 }],
  };
}

function tokenExpires(s: Downlink, seconds: number): DownStep {
  if (seconds <= 0) return closeAndWait({ ...s, stale: true }, new Error("the token has expired"));
  if (seconds > REFRESH_SECONDS || s.refreshing) return still(s);
  return { state: { ...s, refreshing: true, stale: true }, actions: [{ type: "FetchCredentials", attempt: s.attempt, fresh: true }] };
}

function serverError(s: Downlink, code: string, description: string, fatal: boolean): DownStep {
  const error = new Error(`${code}: ${description}`);
  if (!fatal) return still({ ...s, warning: error });
  return closeAndWait({ ...s, stale: s.stale || code.startsWith("PSYNC_S21") }, error);
}
