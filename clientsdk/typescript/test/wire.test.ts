import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { decodeLine, ProtocolError } from "../src/protocol/decode.js";
import * as frames from "../src/protocol/frames.js";
import type { Bucket, Line } from "../src/protocol/lines.js";

interface Case {
  readonly name: string;
  readonly line: string;
  readonly object?: Record<string, unknown>;
  readonly error?: string;
  readonly unknown?: boolean;
  readonly canonical?: boolean;
}

const fixtures = (file: string): Case[] => JSON.parse(readFileSync(new URL(`../../../protocol/testdata/wire/${file}`, import.meta.url), "utf8")) as Case[];

const bucket = (b: Bucket): unknown => ({ bucket: b.name, checksum: b.checksum, count: b.count, priority: b.priority, subscriptions: b.subscriptions });
const wc = (id: bigint): object => (id === 0n ? {} : { write_checkpoint: String(id) });

/** A decoded line in the form the fixtures are written in. */
function object(l: Line): unknown {
  switch (l.type) {
    case "checkpoint":
      return {
        checkpoint: {
          last_op_id: String(l.lastOpId), ...wc(l.writeCheckpoint), buckets: l.buckets.map(bucket),
          streams: l.streams.map((s) => ({ name: s.name, is_default: s.isDefault, errors: s.errors })),
          ...(l.streamsVersion === 0 ? {} : { streams_version: l.streamsVersion }),
        },
      };
    case "checkpoint_diff":
      return { checkpoint_diff: { last_op_id: String(l.lastOpId), ...wc(l.writeCheckpoint), updated_buckets: l.updatedBuckets.map(bucket), removed_buckets: l.removedBuckets } };
    case "data":
      return {
        data: {
          bucket: l.bucket, after: String(l.after), next_after: String(l.nextAfter), has_more: l.hasMore,
          data: l.ops.map((o) => ({
            op_id: String(o.id), op: o.kind,
            ...(o.type === "" ? {} : { object_type: o.type, object_id: o.rowId }),
            ...(o.subkey === "" ? {} : { subkey: o.subkey }),
            checksum: o.checksum,
            ...(o.kind === "PUT" ? { data: o.data } : o.kind === "REMOVE" ? { data: null } : {}),
          })),
        },
      };
    case "checkpoint_complete":
      return { checkpoint_complete: { last_op_id: String(l.lastOpId) } };
    case "partial_checkpoint_complete":
      return { partial_checkpoint_complete: { last_op_id: String(l.lastOpId), priority: l.priority } };
    case "token_expires_in":
      return { token_expires_in: l.seconds };
    case "error":
      return { error: { code: l.code, description: l.description, fatal: l.fatal } };
    case "checkpoint_request":
      return { checkpoint_request: { id: String(l.id) } };
    case "unknown":
      return { unknown: l.key };
  }
}

describe("lines of the server", () => {
  for (const c of fixtures("server-lines.json")) {
    it(c.name, () => {
      if (c.error !== undefined) expect(() => decodeLine(c.line)).toThrow(ProtocolError);
      else if (c.unknown === true) expect(decodeLine(c.line).type).toBe("unknown");
      else expect(object(decodeLine(c.line))).toEqual(c.object);
    });
  }
});

type Wire = Record<string, Record<string, unknown>>;

/** What this client would send for the object of a fixture. */
function encode(f: Wire): string {
  const [key] = Object.keys(f);
  const v = f[key as string] as Record<string, unknown>;
  const selection = (s: Record<string, unknown>): frames.StreamSelection => ({
    includeDefaults: s.include_defaults as boolean,
    subscriptions: (s.subscriptions as { stream: string; parameters: unknown; override_priority: number | null }[]).map((x) => ({
      stream: x.stream, parameters: x.parameters === null ? null : JSON.stringify(x.parameters), priority: x.override_priority,
    })),
  });
  switch (key) {
    case "open":
      return frames.openFrame(
        {
          buckets: (v.buckets as { name: string; after: string }[]).map((b) => ({ name: b.name, after: BigInt(b.after) })),
          clientId: v.client_id as string, parameters: JSON.stringify(v.parameters), streams: selection(v.streams as Record<string, unknown>),
          appMetadata: v.app_metadata as Record<string, string>, streamsVersion: v.streams_version as number,
        },
        v.token as string, v.credit_bytes as number, true,
      );
    case "token":
      return frames.tokenFrame(v.token as string);
    case "streams":
      return frames.streamsFrame(v.version as number, selection(v));
    case "credit":
      return frames.creditFrame(v.bytes as number);
    case "ack":
      return frames.ackFrame(BigInt(v.op_id as string));
    case "checkpoint_request":
      return frames.checkpointRequestFrame(BigInt((v.id as string | undefined) ?? "0"));
  }
  throw new Error(`no frame ${key}`);
}

describe("frames of the client", () => {
  const sent = fixtures("client-frames.json").filter((c) => c.object !== undefined && c.canonical !== false);
  it("has fixtures", () => expect(sent.length).toBeGreaterThanOrEqual(7));
  for (const c of sent) it(c.name, () => expect(encode(c.object as Wire)).toBe(c.line));
});
