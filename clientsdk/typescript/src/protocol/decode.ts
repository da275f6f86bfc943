import type { Bucket, Data, Line, Op, Reason, Stream, StreamIssue } from "./lines.js";
import { LOWEST_PRIORITY, MAX_OP_ID } from "./lines.js";

/** A text that is not what the protocol says. */
export class ProtocolError extends Error {
  override readonly name = "MillraceProtocolError";
}

type Json = null | boolean | number | string | Json[] | { readonly [key: string]: Json };
type Fields = { readonly [key: string]: Json };

/**
 * Reads one line a server streamed. Unknown fields are skipped, null counts as
 * absent, a line with an unknown key gives an {@link UnknownLine}; everything
 * else that the protocol does not allow throws a {@link ProtocolError}.
 */
export function decodeLine(text: string): Line {
  const line = object(parse(text), "line");
  const keys = Object.keys(line);
  const key = keys[0];
  if (key === undefined || keys.length > 1) throw new ProtocolError("a line has exactly one key, this one has " + keys.length);
  const value = line[key] as Json;
  switch (key) {
    case "data":
      return data(object(value, key));
    case "checkpoint": {
      const f = object(value, key);
      return {
        type: "checkpoint",
        lastOpId: opId(f.last_op_id, "checkpoint.last_op_id"),
        writeCheckpoint: opId(f.write_checkpoint ?? "0", "checkpoint.write_checkpoint"),
        buckets: list(f.buckets, "checkpoint.buckets", bucket),
        streams: list(f.streams ?? [], "checkpoint.streams", stream),
        streamsVersion: integer(f.streams_version ?? 0, "checkpoint.streams_version", 0, Number.MAX_SAFE_INTEGER),
      };
    }
    case "checkpoint_diff": {
      const f = object(value, key);
      return {
        type: "checkpoint_diff",
        lastOpId: opId(f.last_op_id, "checkpoint_diff.last_op_id"),
        writeCheckpoint: opId(f.write_checkpoint ?? "0", "checkpoint_diff.write_checkpoint"),
        updatedBuckets: list(f.updated_buckets, "checkpoint_diff.updated_buckets", bucket),
        removedBuckets: list(f.removed_buckets, "checkpoint_diff.removed_buckets", text_),
      };
    }
    case "checkpoint_complete":
      return { type: "checkpoint_complete", lastOpId: opId(object(value, key).last_op_id ?? "0", "checkpoint_complete.last_op_id") };
    case "partial_checkpoint_complete": {
      const f = object(value, key);
      return {
        type: "partial_checkpoint_complete",
        lastOpId: opId(f.last_op_id ?? "0", "partial_checkpoint_complete.last_op_id"),
        priority: integer(f.priority, "partial_checkpoint_complete.priority", 0, 0x7ffffffe),
      };
    }
    case "token_expires_in":
      return { type: "token_expires_in", seconds: integer(value, key, -0x80000000, 0x7fffffff) };
    case "error": {
      const f = object(value, key);
      return {
        type: "error",
        code: text_(f.code, "error.code"),
        description: text_(f.description ?? "", "error.description"),
        fatal: boolean(f.fatal ?? false, "error.fatal"),
      };
    }
    case "checkpoint_request":
      return { type: "checkpoint_request", id: opId(object(value, key).id, "checkpoint_request.id") };
  }
  return { type: "unknown", key };
}

function parse(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch (e) {
    throw new ProtocolError("not JSON: " + (e instanceof Error ? e.message : String(e)));
  }
}

function wrong(path: string, value: Json | undefined, want: string): ProtocolError {
  const shown = value === undefined ? "missing" : JSON.stringify(value).slice(0, 60);
  return new ProtocolError(`${path}: ${shown} where ${want} is expected`);
}

function object(v: Json | undefined, path: string): Fields {
  if (typeof v !== "object" || v === null || Array.isArray(v)) throw wrong(path, v, "an object");
  return v as Fields;
}

function list<T>(v: Json | undefined, path: string, read: (v: Json, path: string) => T): T[] {
  if (!Array.isArray(v)) throw wrong(path, v, "an array");
  return v.map((item, i) => read(item, `${path}[${i}]`));
}

/** Text, with what is no Unicode replaced as every other SDK does. */
function text_(v: Json | undefined, path: string): string {
  if (typeof v !== "string") throw wrong(path, v, "a string");
  return wellFormed(v);
}

const loneSurrogate = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const wellFormed = (s: string): string => s.replace(loneSurrogate, "\ufffd");

function boolean(v: Json, path: string): boolean {
  if (typeof v !== "boolean") throw wrong(path, v, "a boolean");
  return v;
}

function integer(v: Json | undefined, path: string, low: number, high: number): number {
  if (typeof v !== "number" || !Number.isInteger(v) || v < low || v > high) throw wrong(path, v, `an integer from ${low} to ${high}`);
  return v;
}

function checksum(v: Json | undefined, path: string): number {
  return integer(v, path, -0x80000000, 0xffffffff) >>> 0;
}

const digits = /^[0-9]{1,19}$/;

function opId(v: Json | undefined, path: string): bigint {
  if (typeof v !== "string" || !digits.test(v)) throw wrong(path, v, "a string of decimal digits");
  const id = BigInt(v);
  if (id > MAX_OP_ID) throw new ProtocolError(`${path}: ${v} is greater than ${MAX_OP_ID}`);
  return id;
}

function bucket(v: Json, path: string): Bucket {
  const f = object(v, path);
  return {
    name: text_(f.bucket, path + ".bucket"),
    checksum: checksum(f.checksum, path + ".checksum"),
    count: integer(f.count ?? 0, path + ".count", 0, Number.MAX_SAFE_INTEGER),
    priority: integer(f.priority ?? LOWEST_PRIORITY, path + ".priority", 0, 0x7ffffffe),
    subscriptions: list(f.subscriptions ?? [], path + ".subscriptions", reason),
  };
}

function reason(v: Json, path: string): Reason {
  const f = object(v, path);
  const keys = Object.keys(f);
  if (keys.length === 1 && keys[0] === "default") return { default: integer(f.default, path, 0, 0x7fffffff) };
  if (keys.length === 1 && keys[0] === "sub") return { sub: integer(f.sub, path, 0, 0x7fffffff) };
  throw wrong(path, v, '{"default": n} or {"sub": n}');
}

function stream(v: Json, path: string): Stream {
  const f = object(v, path);
  return {
    name: text_(f.name, path + ".name"),
    isDefault: boolean(f.is_default ?? false, path + ".is_default"),
    errors: list(f.errors ?? [], path + ".errors", issue),
  };
}

function issue(v: Json, path: string): StreamIssue {
  const f = object(v, path);
  return {
    subscription: f.subscription === "default" ? "default" : integer(f.subscription, path + ".subscription", 0, 0x7fffffff),
    message: text_(f.message ?? "", path + ".message"),
  };
}

function data(f: Fields): Data {
  const ops = f.data;
  if (!Array.isArray(ops)) throw wrong("data.data", ops, "an array");
  const out: Op[] = new Array<Op>(ops.length);
  for (let i = 0; i < ops.length; i++) out[i] = op(ops[i] as Json, i);
  const last = out.at(-1);
  const next = opId(f.next_after ?? "0", "data.next_after");
  return {
    type: "data",
    bucket: text_(f.bucket, "data.bucket"),
    after: opId(f.after ?? "0", "data.after"),
    nextAfter: next === 0n && last !== undefined ? last.id : next,
    hasMore: boolean(f.has_more ?? false, "data.has_more"),
    ops: out,
  };
}

/** The row path: no path text is built unless something is wrong. */
function op(v: Json, i: number): Op {
  const f = object(v, "op");
  const where = (field: string): string => `data.data[${i}].${field}`;
  const id = f.op_id;
  if (typeof id !== "string" || !digits.test(id)) throw wrong(where("op_id"), id, "a string of decimal digits");
  const n = BigInt(id);
  if (n > MAX_OP_ID) throw new ProtocolError(`${where("op_id")}: ${id} is greater than ${MAX_OP_ID}`);
  const sum = f.checksum;
  if (typeof sum !== "number" || !Number.isInteger(sum) || sum < -0x80000000 || sum > 0xffffffff) throw wrong(where("checksum"), sum, "a 32-bit integer");
  const kind = f.op;
  if (kind === "MOVE" || kind === "CLEAR") return { id: n, kind, type: "", rowId: "", subkey: "", checksum: sum >>> 0, data: "" };
  if (kind !== "PUT" && kind !== "REMOVE") throw wrong(where("op"), kind, "an op");
  const type = f.object_type;
  const rowId = f.object_id;
  if (typeof type !== "string" || typeof rowId !== "string" || type === "" || rowId === "") throw new ProtocolError(where("") + `${kind} without object_type or object_id`);
  const subkey = f.subkey ?? "";
  if (typeof subkey !== "string") throw wrong(where("subkey"), subkey, "a string");
  return { id: n, kind, type, rowId, subkey, checksum: sum >>> 0, data: kind === "PUT" ? rowData(f.data, where) : "" };
}

/** Servers send the text of the object; one that sends the object itself is understood. */
function rowData(v: Json | undefined, where: (field: string) => string): string {
  if (typeof v === "string" && v !== "") return v;
  if (typeof v === "object" && v !== null && !Array.isArray(v)) return JSON.stringify(v);
  throw wrong(where("data"), v, "a string of JSON");
}


