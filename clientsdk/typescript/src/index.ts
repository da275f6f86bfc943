/**
 * `@millrace/client`: a user's part of a Postgres database, in SQLite in the
 * browser, in sync both ways.
 */
export { Millrace, DEFAULT_STREAM_TTL } from "./client/millrace.js";
export type { MillraceOptions, StreamSubscription, SubscribeOptions } from "./client/millrace.js";
export type { Connector } from "./client/connector.js";
export type { ExecuteResult, Transaction, UploadTransaction } from "./client/transaction.js";
export { DEFAULT_THROTTLE } from "./client/watch.js";
export type { Watch, WatchOptions } from "./client/watch.js";
export type { AnyRow } from "./client/rows.js";
export { defineSchema, integer, real, SchemaError, table, text } from "./schema.js";
export type { Columns, ColumnType, IndexColumn, Row, Schema, Table, TableOptions, Tables } from "./schema.js";
export { ClosedError, MillraceError, OpenError, QueryError, TransactionLostError } from "./errors.js";
export type { Credentials } from "./engine/credentials.js";
export type { ConnectOptions } from "./engine/engine.js";
export type { StreamStatus, SyncStatus } from "./status.js";
export type { BucketInfo, Diagnostics } from "./store/diagnostics.js";
export type { RejectedUpload, UploadEntry, UploadKind, UploadOp } from "./store/queue.js";
export type { Param, Value } from "./sqlite/connection.js";
