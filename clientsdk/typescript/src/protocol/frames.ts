import type { OpId } from "./lines.js";

/** Names the native WebSocket transport. */
export const SUBPROTOCOL = "millrace.v1";
/** Its path below the endpoint. */
export const PATH = "/sync/ws";
/** The HTTP stream's, and where it asks for write checkpoints. */
export const STREAM_PATH = "/sync/stream";
export const WRITE_CHECKPOINT_PATH = "/write-checkpoint2.json";

/** Longest list of subscriptions a server takes. */
export const MAX_SUBSCRIPTIONS = 10_000;

export interface BucketPosition {
  readonly name: string;
  /** Everything up to here is stored. */
  readonly after: OpId;
}

export interface Subscription {
  readonly stream: string;
  /** Text of a JSON object; null for none. */
  readonly parameters: string | null;
  /** null keeps the stream's own. */
  readonly priority: number | null;
}

export interface StreamSelection {
  readonly includeDefaults: boolean;
  readonly subscriptions: readonly Subscription[];
}

export interface OpenRequest {
  readonly buckets: readonly BucketPosition[];
  readonly clientId: string;
  /** Text of a JSON object; null for none. */
  readonly parameters: string | null;
  readonly streams: StreamSelection;
  readonly appMetadata: Readonly<Record<string, string>>;
  readonly streamsVersion: number;
}

const q = JSON.stringify;

function selection(s: StreamSelection): string {
  const subs = s.subscriptions.map((x) => `{"stream":${q(x.stream)},"parameters":${x.parameters ?? "null"},"override_priority":${x.priority ?? "null"}}`);
  return `"include_defaults":${s.includeDefaults},"subscriptions":[${subs.join(",")}]`;
}

/** What is asked for, without what is around it. */
function requestFields(r: OpenRequest): string {
  const buckets = r.buckets.map((b) => `{"name":${q(b.name)},"after":"${b.after}"}`);
  const metadata = Object.keys(r.appMetadata).sort().map((k) => `${q(k)}:${q(r.appMetadata[k])}`);
  return (
    `"buckets":[${buckets.join(",")}],"include_checksum":true,"raw_data":true,"binary_data":false` +
    `,"client_id":${q(r.clientId)}` +
    (r.parameters === null ? "" : `,"parameters":${r.parameters}`) +
    `,"streams":{${selection(r.streams)}}` +
    (metadata.length === 0 ? "" : `,"app_metadata":{${metadata.join(",")}}`)
  );
}

/** The body of a request for an HTTP stream. */
export const streamRequest = (r: OpenRequest): string => `{${requestFields(r)}}`;

/** The first frame of a stream. */
export function openFrame(r: OpenRequest, token: string, creditBytes: number, gzip: boolean): string {
  return (
    `{"open":{${requestFields(r)},"token":${q(token)}` +
    (gzip ? `,"accept":["gzip"]` : "") +
    `,"credit_bytes":${creditBytes}` +
    (r.streamsVersion === 0 ? "" : `,"streams_version":${r.streamsVersion}`) +
    "}}"
  );
}

/** New credentials of the same user, for the open stream. */
export const tokenFrame = (token: string): string => `{"token":{"token":${q(token)}}}`;

/** Another list of subscriptions; the next checkpoint echoes its version. */
export const streamsFrame = (version: number, s: StreamSelection): string => `{"streams":{"version":${version},${selection(s)}}}`;

/** Lets the server send so many bytes more. */
export const creditFrame = (bytes: number): string => `{"credit":{"bytes":${bytes}}}`;

/** Tells the last checkpoint stored. */
export const ackFrame = (opId: OpId): string => `{"ack":{"op_id":"${opId}"}}`;

/** Asks for a write checkpoint. */
export const checkpointRequestFrame = (id = 0n): string => (id === 0n ? `{"checkpoint_request":{}}` : `{"checkpoint_request":{"id":"${id}"}}`);

/** Close codes of the native transport. */
export const CLOSE = {
  restarting: 1012,
  overloaded: 1013,
  malformed: 4400,
  unauthorized: 4401,
  subject: 4403,
  noOpen: 4408,
  rules: 4409,
  tooLarge: 4413,
  connections: 4429,
} as const;
