/**
 * What a server streams, one JSON object with one key per line, as decoded
 * values. The same words as the Go package `protocol`; fixtures of both are in
 * `protocol/testdata/wire`.
 */

/** Position in the one order of all ops. Never a `number`: it has 64 bits. */
export type OpId = bigint;

/** The greatest op id or write checkpoint the protocol allows. */
export const MAX_OP_ID = 9223372036854775806n;

/** Priorities: 0 is the most urgent. */
export const LOWEST_PRIORITY = 3;

export type OpKind = "PUT" | "REMOVE" | "MOVE" | "CLEAR";

/** One entry of a bucket's history. */
export interface Op {
  readonly id: OpId;
  readonly kind: OpKind;
  /** Table the row belongs to; empty for MOVE and CLEAR, like `rowId` and `subkey`. */
  readonly type: string;
  readonly rowId: string;
  /** Tells source rows apart that share a row id; empty if there is only one. */
  readonly subkey: string;
  /** Unsigned, 32 bits. */
  readonly checksum: number;
  /** JSON object of a PUT, exactly the text that was summed; else empty. */
  readonly data: string;
}

/** Why a client gets a bucket: through a default stream or a subscription, by index. */
export type Reason = { readonly default: number } | { readonly sub: number };

/** What a checkpoint says of one bucket. */
export interface Bucket {
  readonly name: string;
  readonly checksum: number;
  /** How many ops a new client would download. */
  readonly count: number;
  readonly priority: number;
  readonly subscriptions: readonly Reason[];
}

export interface StreamIssue {
  readonly subscription: number | "default";
  readonly message: string;
}

/** A stream in force for the connection. */
export interface Stream {
  readonly name: string;
  readonly isDefault: boolean;
  readonly errors: readonly StreamIssue[];
}

export interface Checkpoint {
  readonly type: "checkpoint";
  readonly lastOpId: OpId;
  /** 0 for none. */
  readonly writeCheckpoint: bigint;
  /** All of them: others the client holds are gone. */
  readonly buckets: readonly Bucket[];
  readonly streams: readonly Stream[];
  /** Version of the client's list of subscriptions this is for; 0: not said. */
  readonly streamsVersion: number;
}

export interface CheckpointDiff {
  readonly type: "checkpoint_diff";
  readonly lastOpId: OpId;
  /** Not inherited from the line before; 0 for none. */
  readonly writeCheckpoint: bigint;
  readonly updatedBuckets: readonly Bucket[];
  readonly removedBuckets: readonly string[];
}

/** A run of ops of one bucket, in ascending order. */
export interface Data {
  readonly type: "data";
  readonly bucket: string;
  readonly after: OpId;
  readonly nextAfter: OpId;
  readonly hasMore: boolean;
  readonly ops: readonly Op[];
}

export interface CheckpointComplete {
  readonly type: "checkpoint_complete";
  readonly lastOpId: OpId;
}

export interface PartialCheckpointComplete {
  readonly type: "partial_checkpoint_complete";
  readonly lastOpId: OpId;
  readonly priority: number;
}

export interface TokenExpiresIn {
  readonly type: "token_expires_in";
  readonly seconds: number;
}

export interface StreamError {
  readonly type: "error";
  readonly code: string;
  readonly description: string;
  readonly fatal: boolean;
}

/** The server's answer to a request for a write checkpoint. */
export interface CheckpointRequestReply {
  readonly type: "checkpoint_request";
  readonly id: bigint;
}

/** A later server's line; ignored. */
export interface UnknownLine {
  readonly type: "unknown";
  readonly key: string;
}

export type Line =
  | Checkpoint
  | CheckpointDiff
  | Data
  | CheckpointComplete
  | PartialCheckpointComplete
  | TokenExpiresIn
  | StreamError
  | CheckpointRequestReply
  | UnknownLine;
