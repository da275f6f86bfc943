import { readFileSync, writeFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { delayAfter } from "../src/machine/backoff.js";
import type { DownAction, DownEvent, Downlink, DownPhase } from "../src/machine/downlink.js";
import { newDownlink, stepDownlink } from "../src/machine/downlink.js";
import type { UpAction, UpEvent, Uplink, UpPhase } from "../src/machine/uplink.js";
import { newUplink, stepUplink } from "../src/machine/uplink.js";
import type { Bucket, Line, Op } from "../src/protocol/lines.js";

/**
 * SPEC.md here and the Go SDK's show exactly what this code does. Run with
 * MILLRACE_REWRITE=1 to write the tables, and read the difference.
 */
const ours = new URL("../SPEC.md", import.meta.url);
const theirs = new URL("../../SPEC.md", import.meta.url);

const trouble = new Error("test");
const b: Bucket = { name: "b", checksum: 0, count: 0, priority: 1, subscriptions: [] };
const op = (id: bigint): Op => ({ id, kind: "MOVE", type: "", rowId: "", subkey: "", checksum: 0, data: "" });

/** A download half in a phase, as it would be there. */
function down(phase: DownPhase): Downlink {
  const s: Downlink = { ...newDownlink({ min: 1000, max: 60_000 }), phase, attempt: 7, wanted: 1, sent: 1, opened: 1 };
  if (phase === "syncing") return { ...s, connected: true, inBand: true, target: { opId: 10n, writeCheckpoint: 1n, buckets: new Map([["b", b]]) } };
  if (phase === "waiting") return { ...s, failures: 1, error: trouble };
  return s;
}

const line = (l: Line): DownEvent => ({ type: "Received", attempt: 7, line: l });
const http: Partial<Downlink> = { inBand: false };
const noTarget: Partial<Downlink> = { target: null };
const refreshing: Partial<Downlink> = { refreshing: true, stale: true };

const checkpoint = (lastOpId: bigint, buckets: Bucket[] = []): DownEvent => line({ type: "checkpoint", lastOpId, writeCheckpoint: 0n, buckets, streams: [], streamsVersion: 0 });
const diff = (lastOpId: bigint): DownEvent => line({ type: "checkpoint_diff", lastOpId, writeCheckpoint: 0n, updatedBuckets: [], removedBuckets: [] });
const data = (bucket: string, ...ids: bigint[]): DownEvent => line({ type: "data", bucket, after: 0n, nextAfter: 0n, hasMore: false, ops: ids.map(op) });
const partial = (lastOpId: bigint): DownEvent => line({ type: "partial_checkpoint_complete", lastOpId, priority: 1 });
const complete = (lastOpId: bigint): DownEvent => line({ type: "checkpoint_complete", lastOpId });
const expires = (seconds: number): DownEvent => line({ type: "token_expires_in", seconds });
const error = (code: string, fatal: boolean): DownEvent => line({ type: "error", code, description: "", fatal });

const downRows: [name: string, event: DownEvent, setup?: Partial<Downlink>][] = [
  ["Connect", { type: "Connect" }],
  ["Disconnect", { type: "Disconnect" }],
  ["SubscriptionsChanged, newer, in-band", { type: "SubscriptionsChanged", version: 2 }],
  ["SubscriptionsChanged, newer, HTTP", { type: "SubscriptionsChanged", version: 2 }, http],
  ["SubscriptionsChanged, not newer", { type: "SubscriptionsChanged", version: 1 }],
  ["CredentialsReady", { type: "CredentialsReady", attempt: 7 }],
  ["CredentialsReady, refreshing, in-band", { type: "CredentialsReady", attempt: 7 }, refreshing],
  ["CredentialsReady, refreshing, HTTP", { type: "CredentialsReady", attempt: 7 }, { ...refreshing, ...http }],
  ["CredentialsFailed", { type: "CredentialsFailed", attempt: 7, error: trouble }],
  ["CredentialsFailed, refreshing", { type: "CredentialsFailed", attempt: 7, error: trouble }, refreshing],
  ["Opened", { type: "Opened", attempt: 7, inBand: true }],
  ["Opened, list changed meanwhile, in-band", { type: "Opened", attempt: 7, inBand: true }, { wanted: 2 }],
  ["Opened, list changed meanwhile, HTTP", { type: "Opened", attempt: 7, inBand: false }, { wanted: 2 }],
  ["checkpoint", checkpoint(11n, [{ ...b, name: "c" }])],
  ["checkpoint, first", checkpoint(9n), noTarget],
  ["checkpoint, going back", checkpoint(9n)],
  ["checkpoint_diff", diff(11n)],
  ["checkpoint_diff, first", diff(11n), noTarget],
  ["checkpoint_diff, going back", diff(9n)],
  ["data", data("b", 10n)],
  ["data, before a checkpoint", data("b"), noTarget],
  ["data, bucket not in the checkpoint", data("x")],
  ["data, beyond the checkpoint", data("b", 11n)],
  ["partial_checkpoint_complete", partial(10n)],
  ["partial_checkpoint_complete, other op id", partial(8n)],
  ["partial_checkpoint_complete, first", partial(0n), noTarget],
  ["checkpoint_complete", complete(10n)],
  ["checkpoint_complete, other op id", complete(8n)],
  ["checkpoint_complete, first", complete(0n), noTarget],
  ["token_expires_in > 30", expires(31)],
  ["token_expires_in 1 to 30", expires(30)],
  ["token_expires_in 1 to 30, refreshing", expires(20), refreshing],
  ["token_expires_in ≤ 0", expires(0)],
  ["error, not fatal", error("PSYNC_S2305", false)],
  ["error, fatal", error("PSYNC_S2003", true)],
  ["unknown line", line({ type: "unknown", key: "new" })],
  ["any line of an earlier attempt", { ...expires(0), attempt: 6 } as DownEvent],
  ["Ended, lost", { type: "Ended", attempt: 7, reason: "lost", error: trouble }],
  ["Ended, unauthorized", { type: "Ended", attempt: 7, reason: "unauthorized", error: trouble }],
  ["Ended, overloaded", { type: "Ended", attempt: 7, reason: "overloaded", error: trouble }],
  ["Ended, of an earlier attempt", { type: "Ended", attempt: 6, reason: "lost", error: trouble }],
  ["Applied, full", { type: "Applied", attempt: 7, opId: 10n, full: true, published: true }],
  ["Applied, partial", { type: "Applied", attempt: 7, opId: 10n, full: false, published: true }],
  ["Corrupt", { type: "Corrupt", attempt: 7, buckets: ["b"], error: trouble }],
  ["StorageFailed", { type: "StorageFailed", attempt: 7, error: trouble }],
  ["TimerFired", { type: "TimerFired", attempt: 7 }],
  ["TimerFired, of an earlier attempt", { type: "TimerFired", attempt: 6 }],
];

const upRows: [name: string, event: UpEvent, setup?: Partial<Uplink>][] = [
  ["Start", { type: "Start" }],
  ["Stop", { type: "Stop" }],
  ["Wrote", { type: "Wrote" }],
  ["StreamUp", { type: "StreamUp" }],
  ["Held, asked on this stream", { type: "Held", stream: 3 }],
  ["Held, asked on an earlier stream", { type: "Held", stream: 4 }],
  ["Inspected, queue not empty", inspected(2, 5n, 0n)],
  ["Inspected, same entry as before the upload", inspected(2, 5n, 0n), { head: 5n }],
  ["Inspected, empty, write checkpoint not asked for", inspected(0, 0n, 9n, true)],
  ["Inspected, empty, to be asked for again", inspected(0, 0n, 9n), { renew: true }],
  ["Inspected, empty, asked for", inspected(0, 0n, 9n)],
  ["Inspected, empty after an upload, asked for", inspected(0, 0n, 9n), { head: 5n }],
  ["Inspected, empty, but written meanwhile", inspected(0, 0n, 9n), { again: true }],
  ["UploadReturned", { type: "UploadReturned", round: 7 }],
  ["UploadFailed", { type: "UploadFailed", round: 7, error: trouble }],
  ["CheckpointReady", { type: "CheckpointReady", round: 7, id: 12n, stream: 3 }],
  ["CheckpointFailed", { type: "CheckpointFailed", round: 7, error: trouble }],
  ["TargetSet, set", { type: "TargetSet", round: 7, set: true }],
  ["TargetSet, written meanwhile", { type: "TargetSet", round: 7, set: false }],
  ["LocalFailed", { type: "LocalFailed", round: 7, error: trouble }],
  ["RetryFired", { type: "RetryFired", round: 7 }],
  ["any result of an earlier round", { type: "UploadFailed", round: 6, error: trouble }],
];

function inspected(queued: number, head: bigint, last: bigint, unacknowledged = false): UpEvent {
  return { type: "Inspected", round: 7, queued, head, last, unacknowledged, stream: 3 };
}

const up = (phase: UpPhase): Uplink => ({ ...newUplink({ min: 1000, max: 60_000 }, trouble), phase, round: 7, askedOn: 3 });

function cell(before: { readonly phase: string }, after: { readonly phase: string }, actions: readonly { readonly type: string }[]): string {
  const parts = [...(before.phase === after.phase ? [] : [`**${after.phase}**`]), ...actions.map((a) => a.type)];
  if (parts.length > 0) return parts.join(", ");
  const text = (s: object): string => JSON.stringify(s, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v instanceof Map ? [...v] : v instanceof Error ? v.message : v));
  return text(before) === text(after) ? "–" : "noted";
}

function render(phases: readonly string[], rows: readonly (readonly [string, ...string[]])[]): string {
  return [["event", ...phases], ["---", ...phases.map(() => "---")]].map((r) => (r[0] === "---" ? `|${r.join("|")}|` : `| ${r.join(" | ")} |`)).join("\n") + "\n" + rows.map((r) => `| ${r.join(" | ")} |\n`).join("");
}

const downPhases = ["offline", "authorizing", "opening", "syncing", "waiting"] as const satisfies readonly DownPhase[];
const upPhases = ["off", "idle", "checking", "uploading", "requesting", "settling", "waiting"] as const satisfies readonly UpPhase[];

const tables = {
  downlink: render(downPhases, downRows.map(([name, event, setup]) => [name, ...downPhases.map((p) => {
    const s = { ...down(p), ...setup };
    const { state, actions } = stepDownlink(s, event);
    return cell(s, state, actions);
  })])),
  uplink: render(upPhases, upRows.map(([name, event, setup]) => [name, ...upPhases.map((p) => {
    const s = { ...up(p), ...setup };
    const { state, actions } = stepUplink(s, event);
    return cell(s, state, actions);
  })])),
};

function section(text: string, name: string): [before: string, table: string, after: string] {
  const [begin, end] = [`<!-- ${name} table -->\n`, `<!-- end of ${name} table -->`];
  const from = text.indexOf(begin) + begin.length;
  const to = text.indexOf(end);
  if (from < begin.length || to < 0) throw new Error(`no place for the ${name} table`);
  return [text.slice(0, from), text.slice(from, to), text.slice(to)];
}

describe("transition tables", () => {
  for (const name of ["downlink", "uplink"] as const) {
    it(`of the ${name} are the Go SDK's`, () => expect(tables[name]).toBe(section(readFileSync(theirs, "utf8"), name)[1]));
    it(`of the ${name} are what SPEC.md shows`, () => {
      const text = readFileSync(ours, "utf8");
      const [before, have, after] = section(text, name);
      if (process.env.MILLRACE_REWRITE !== undefined) writeFileSync(ours, before + tables[name] + after);
      else expect(have).toBe(tables[name]);
    });
  }
});

// What holds after any sequence of events.

const attempt = fc.nat(3);
const anyLine: fc.Arbitrary<Line> = fc.constantFrom(
  ...downRows.flatMap(([, e]) => (e.type === "Received" ? [e.line] : [])),
);
/** Events as they may come: results of the present attempt, or of one before. */
const downEvents = fc.array(
  fc.tuple(
    attempt,
    fc.oneof(
      fc.constantFrom<DownEvent>({ type: "Connect" }, { type: "Disconnect" }),
      fc.nat(5).map((version): DownEvent => ({ type: "SubscriptionsChanged", version })),
      fc.constantFrom<DownEvent>({ type: "CredentialsReady", attempt: 0 }, { type: "CredentialsFailed", attempt: 0, error: trouble }, { type: "TimerFired", attempt: 0 }, { type: "StorageFailed", attempt: 0, error: trouble }),
      fc.boolean().map((inBand): DownEvent => ({ type: "Opened", attempt: 0, inBand })),
      anyLine.map((l): DownEvent => ({ type: "Received", attempt: 0, line: l })),
      fc.constantFrom("lost" as const, "unauthorized" as const, "overloaded" as const).map((reason): DownEvent => ({ type: "Ended", attempt: 0, reason, error: trouble })),
      fc.boolean().map((full): DownEvent => ({ type: "Applied", attempt: 0, opId: 10n, full, published: true })),
      fc.constant<DownEvent>({ type: "Corrupt", attempt: 0, buckets: ["b"], error: trouble }),
    ),
  ),
  { maxLength: 80, size: "max" },
);

describe("the download half", () => {
  it("has one stream at most, waits for something always, and stores only while a stream is open (D1, D2, D7)", () => {
    fc.assert(
      fc.property(downEvents, (events) => {
        let s = newDownlink({ min: 1000, max: 60_000 });
        let stream: number | null = null;
        let timer = false;
        let asked = 0; // the attempt credentials were asked for
        for (const [back, e] of events) {
          const event = "attempt" in e ? { ...e, attempt: Math.max(s.attempt - (back === 0 ? 1 : 0), 0) } : e;
          if (event.type === "TimerFired" && event.attempt === s.attempt) timer = false;
          const open = stream !== null;
          const { state, actions } = stepDownlink(s, event);
          if (event.type === "Ended" && event.attempt === s.attempt) stream = null;
          for (const a of actions) {
            const storage: DownAction["type"][] = ["Begin", "Stage", "Complete", "DropBuckets"];
            if (storage.includes(a.type)) expect(open, a.type).toBe(true);
            if (a.type === "OpenStream") {
              expect(stream).toBeNull();
              stream = a.attempt;
            } else if (a.type === "CloseStream") {
              expect(a.attempt).toBe(s.attempt);
              stream = null;
            } else if (a.type === "StartTimer") timer = true;
            else if (a.type === "StopTimer") timer = false;
            else if (a.type === "FetchCredentials") {
              asked = a.attempt;
              if (s.stale) expect(a.fresh, "a refused token is never used again (D4)").toBe(true);
            }
          }
          s = state;
          expect(stream !== null).toBe(s.phase === "opening" || s.phase === "syncing");
          if (s.phase === "waiting") expect(timer).toBe(true);
          if (s.phase === "authorizing") expect(asked).toBe(s.attempt);
          if (s.phase === "syncing") expect(s.connected).toBe(true);
          if (s.target !== null) expect(s.phase).toBe("syncing");
        }
      }),
      { numRuns: 500 },
    );
  });

  it("only a full completion resets failures (D3)", () => {
    let s = { ...down("waiting"), failures: 5 };
    for (const e of [{ type: "TimerFired" }, { type: "CredentialsReady" }, { type: "Opened", inBand: true }, { type: "Applied", opId: 1n, full: false, published: true }] as const) {
      s = stepDownlink(s, { ...e, attempt: s.attempt } as DownEvent).state;
      expect(s.failures).toBe(5);
    }
    expect(stepDownlink(s, { type: "Applied", attempt: s.attempt, opId: 1n, full: true, published: false }).state.failures).toBe(0);
  });

  it("asks for credentials again after every third failure (D8)", () => {
    let s = newDownlink({ min: 1, max: 1 });
    s = stepDownlink(s, { type: "Connect" }).state;
    const asked: boolean[] = [];
    for (let i = 0; i < 7; i++) {
      s = stepDownlink(s, { type: "CredentialsReady", attempt: s.attempt }).state;
      s = stepDownlink(s, { type: "Ended", attempt: s.attempt, reason: "lost", error: trouble }).state;
      const { state, actions } = stepDownlink(s, { type: "TimerFired", attempt: s.attempt });
      asked.push(actions.some((a) => a.type === "FetchCredentials" && a.fresh));
      s = state;
    }
    expect(asked).toEqual([false, false, true, false, false, true, false]);
  });

  it("a wait doubles up to its limit (D3)", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 5000, max: 100_000 }), fc.integer({ min: 1, max: 40 }), (min, max, n) => {
        const d = delayAfter({ min, max }, n);
        expect(d).toBeGreaterThanOrEqual(min);
        expect(d).toBeLessThanOrEqual(max);
        expect(delayAfter({ min, max }, n + 1)).toBe(Math.min(max, 2 * d >= max ? max : 2 * d));
      }),
    );
  });

  it("does not change a state it was given", () => {
    fc.assert(
      fc.property(fc.constantFrom(...downRows), fc.constantFrom(...downPhases), ([, event, setup], phase) => {
        const s = Object.freeze({ ...down(phase), ...setup });
        if (s.target !== null) Object.freeze(s.target);
        stepDownlink(s, event);
      }),
    );
  });
});

describe("the upload half", () => {
  it("has one call under way at most, waits for something always, and asks for a write checkpoint after the queue empties (U1, U2, U4)", () => {
    const events = fc.array(fc.tuple(fc.nat(3), fc.constantFrom(...upRows.map(([, e]) => e))), { maxLength: 80, size: "max" });
    fc.assert(
      fc.property(events, (list) => {
        let s = newUplink({ min: 1000, max: 60_000 }, trouble);
        let calls = 0;
        let timer = false;
        for (const [back, e] of list) {
          const event = "round" in e ? { ...e, round: back === 0 ? s.round - 1 : s.round } : e;
          const current = "round" in event && event.round === s.round;
          if (current && event.type === "RetryFired") timer = false;
          const { state, actions } = stepUplink(s, event);
          if (current && (s.phase === "uploading" || s.phase === "requesting") && state.phase !== s.phase) calls = 0;
          const types = actions.map((a: UpAction) => a.type);
          for (const t of types) {
            if (t === "Upload" || t === "RequestCheckpoint") {
              expect(calls).toBe(0);
              calls++;
            } else if (t === "CancelUpload") calls = 0;
            else if (t === "StartRetry") timer = true;
            else if (t === "StopRetry") timer = false;
          }
          if (s.phase === "checking" && current && event.type === "Inspected" && event.queued === 0 && event.unacknowledged) expect(types).toEqual(["RequestCheckpoint"]);
          s = state;
          expect(calls > 0).toBe(s.phase === "uploading" || s.phase === "requesting");
          expect(timer, s.phase).toBe(s.phase === "waiting");
        }
      }),
      { numRuns: 500 },
    );
  });
});
