import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { gzipSync } from "node:zlib";
import { addChecksums, putChecksum } from "../src/checksum.js";
import { Owner } from "../src/owner/owner.js";
import { TestPage } from "./support/pages.js";
import { fakeSockets, FakeSocket, socket } from "./support/socket.js";
import { memory } from "./support/sqlite.js";

let owner: Owner;
let page: TestPage;
beforeEach(async () => {
  owner = new Owner(await memory(), true);
  page = await new TestPage(owner).hello();
});
afterEach(() => owner.close());

const fast = { retryMin: 1, retryMax: 5 };
const row = (id: string, title: string): object => ({ object_type: "todos", object_id: id, data: JSON.stringify({ title }), checksum: putChecksum("todos", id, "", JSON.stringify({ title })) });
const bucket = (name: string, checksum: number, count: number): object => ({ bucket: name, checksum, count, priority: 3, subscriptions: [] });
const checkpoint = (id: number, buckets: object[], more: object = {}): object => ({ checkpoint: { last_op_id: String(id), buckets, streams: [], ...more } });
const complete = (id: number): object => ({ checkpoint_complete: { last_op_id: String(id) } });
const titles = async (p: TestPage = page): Promise<unknown[]> => (await p.rows("SELECT title FROM todos ORDER BY title")).flat();
const until = (condition: () => void | Promise<void>): Promise<void> => vi.waitFor(condition, { timeout: 60_000, interval: 5 });

/** A first sync of one row. */
function firstSync(s: FakeSocket, title = "Milk"): void {
  const r = row("a", title) as { checksum: number };
  s.says(checkpoint(1, [bucket("b", r.checksum, 1)]), { data: { bucket: "b", data: [{ op_id: "1", op: "PUT", ...r }] } }, complete(1));
}

describe("a connection", () => {
  it("asks with what is stored, shows what comes, and acknowledges it", async () => {
    fakeSockets();
    await page.connect({ ...fast, parameters: { tenant: "x" }, appMetadata: { v: "1" } });
    const s = await socket(0);
    expect([s.url, s.protocol]).toEqual(["ws://server.test/base/sync/ws", "millrace.v1"]);
    expect(s.sent("open")[0]).toMatchObject({ buckets: [], raw_data: true, token: "t1", parameters: { tenant: "x" }, app_metadata: { v: "1" }, accept: ["gzip"], streams: { include_defaults: true } });
    firstSync(s);
    await until(async () => expect(await titles()).toEqual(["Milk"]));
    await until(() => expect(s.sent("ack")).toEqual([{ op_id: "1" }]));
    await until(() => expect(page.status).toMatchObject({ connected: true, hasSynced: true, checkpoint: 1n, downloadError: null, downloadProgress: null }));
    s.ends();
    const again = await socket(1);
    expect(again.sent("open")[0]).toMatchObject({ buckets: [{ name: "b", after: "1" }] });
  });

  it("inflates compressed frames, in order with others", async () => {
    fakeSockets();
    await page.connect(fast);
    const s = await socket(0);
    const r = row("a", "Ünï\u{1f6b6}") as { checksum: number };
    s.says(checkpoint(1, [bucket("b", r.checksum, 1)]));
    const gz = gzipSync(JSON.stringify({ data: { bucket: "b", data: [{ op_id: "1", op: "PUT", ...r }] } }));
    s.sends(gz.buffer.slice(gz.byteOffset, gz.byteOffset + gz.byteLength) as ArrayBuffer);
    s.says(complete(1));
    await until(async () => expect(await titles()).toEqual(["Ünï\u{1f6b6}"]));
    s.sends(new Uint8Array([1, 2, 3]).buffer);
    await until(() => expect(page.status?.downloadError?.message).toContain("compressed frame"));
  });

  it("gives credit for what is stored", async () => {
    fakeSockets();
    await page.connect(fast);
    const s = await socket(0);
    const open = s.sent("open")[0] as { credit_bytes: number };
    const big = "x".repeat(1 << 20);
    let sum = 0;
    const data = Array.from({ length: 5 }, (_, i) => {
      const r = row("r" + i, big) as { checksum: number };
      sum = addChecksums(sum, r.checksum);
      return { data: { bucket: "b", data: [{ op_id: String(i + 1), op: "PUT", ...r }] } };
    });
    s.says(checkpoint(5, [bucket("b", sum, 5)]));
    for (const d of data) s.says(d);
    s.says(complete(5));
    await until(async () => expect(await titles()).toHaveLength(5));
    const credit = s.sent("credit").reduce((n, c) => n + (c.bytes as number), 0);
    expect(credit).toBeGreaterThanOrEqual(open.credit_bytes / 2);
    expect(credit).toBeLessThan(6 << 20);
  });

  it("works offline, says why, and goes on trying (D5)", async () => {
    fakeSockets();
    page.credentials = async () => Promise.reject(new Error("no network"));
    await page.connect(fast);
    await until(() => expect(page.status?.downloadError?.message).toBe("fetch credentials: no network"));
    await page.write("INSERT INTO todos (id, title) VALUES ('o', 'Offline')");
    expect(await titles()).toEqual(["Offline"]);
    page.credentials = async () => null;
    await until(() => expect(page.status?.downloadError?.message).toContain("gave null"));
    page.credentials = async () => ({ endpoint: "http://server.test", token: "t2" });
    firstSync(await socket(0));
    await until(() => expect(page.status).toMatchObject({ connected: true, downloadError: null }));
  });

  it("renews a token in-band before it expires, and never uses a refused one again (D4)", async () => {
    fakeSockets();
    let n = 0;
    page.credentials = async () => ({ endpoint: "http://server.test", token: `t${++n}` });
    await page.connect(fast);
    const s = await socket(0);
    firstSync(s);
    s.says({ token_expires_in: 25 });
    await until(() => expect(s.sent("token")).toEqual([{ token: "t2" }]));
    expect(page.events.some((e) => e.type === "status" && e.status.hasSynced && !e.status.connected)).toBe(false);
    s.ends(4401, "PSYNC_S2103");
    expect((await socket(1)).sent("open")[0]).toMatchObject({ token: "t3" });
    FakeSocket.all[1]?.says({ error: { code: "PSYNC_S2101", description: "no", fatal: true } });
    expect((await socket(2)).sent("open")[0]).toMatchObject({ token: "t4" });
  });

  it("sends changed subscriptions on the open stream, and knows when they are covered (D6)", async () => {
    fakeSockets();
    await page.connect(fast);
    const s = await socket(0);
    firstSync(s);
    await until(() => expect(page.status?.hasSynced).toBe(true));
    const version = await page.peer.call("subscribe", [{ name: "project", params: '{"id":"p"}' }, 1, 0]);
    await until(() => expect(s.sent("streams")).toEqual([{ version, include_defaults: true, subscriptions: [{ stream: "project", parameters: { id: "p" }, override_priority: 1 }] }]));
    expect(page.status?.coveredStreams).toBeLessThan(version);
    const r = row("a", "Milk") as { checksum: number };
    s.says(checkpoint(1, [bucket("b", r.checksum, 1)], { streams_version: version }), complete(1));
    await until(() => expect(page.status?.coveredStreams).toBe(version));
    await page.peer.call("unsubscribe", [{ name: "project", params: '{"id":"p"}' }]);
    await until(() => expect(s.sent("streams").at(-1)).toMatchObject({ version: version + 1, subscriptions: [] }));
  });

  it("ends when the server says what is no protocol, and begins anew", async () => {
    fakeSockets();
    await page.connect(fast);
    (await socket(0)).onmessage?.({ data: "{nonsense" });
    await until(() => expect(page.status?.downloadError?.message).toContain("a line of the sync stream"));
    (await socket(1)).says(complete(3));
    await until(() => expect(page.status?.downloadError?.message).toContain("the server broke the protocol"));
    firstSync(await socket(2));
    await until(() => expect(page.status).toMatchObject({ connected: true, downloadError: null }));
  });

  it("counts as lost when the server is silent", async () => {
    fakeSockets();
    await page.connect({ ...fast, silence: 30 });
    firstSync(await socket(0));
    await until(() => expect(page.status?.downloadError?.message).toContain("silent"));
    await socket(1);
  });

  it("stops for all pages when one disconnects", async () => {
    fakeSockets();
    const other = await new TestPage(owner).hello();
    await page.connect(fast);
    const s = await socket(0);
    firstSync(s);
    await until(() => expect(other.status?.connected).toBe(true));
    await other.peer.call("disconnect", []);
    expect(s.open).toBe(false);
    await until(() => expect(page.events.at(-1)).toMatchObject({ type: "status", wanted: false, status: { connected: false } }));
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("is left alone by another page that asks for the same, and replaced for another or by its own", async () => {
    fakeSockets();
    const other = await new TestPage(owner).hello();
    await page.connect(fast);
    const s = await socket(0);
    firstSync(s);
    await until(() => expect(page.status?.connected).toBe(true));
    await other.connect(fast);
    await other.hello({ ...fast, appMetadata: { v: "2" } }); // after a change of owners
    expect([s.open, FakeSocket.all.length]).toEqual([true, 1]);
    await other.connect({ ...fast, appMetadata: { v: "2" } });
    expect(s.open).toBe(false);
    expect((await socket(1)).sent("open")[0]).toMatchObject({ app_metadata: { v: "2" } });
    await other.connect({ ...fast, appMetadata: { v: "2" } }); // by the one that made it
    await socket(2);
    expect(FakeSocket.all[1]?.open).toBe(false);
  });

  it("goes on with another page's connector when a page says good-bye", async () => {
    fakeSockets();
    const other = await new TestPage(owner).hello();
    other.credentials = async () => ({ endpoint: "http://server.test", token: "other's" });
    await page.connect(fast);
    await other.connect(fast);
    firstSync(await socket(0));
    await until(() => expect(other.status?.connected).toBe(true));
    page.peer.close();
    FakeSocket.all[0]?.ends(4401);
    expect((await socket(1)).sent("open")[0]).toMatchObject({ token: "other's" });
  });

  it("asks another page for credentials when one gives no answer, as one that is frozen", async () => {
    fakeSockets();
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    onTestFinished(() => void vi.useRealTimers());
    const soon = async <T>(p: Promise<T>): Promise<T> => {
      let over = false;
      void p.finally(() => (over = true)).catch(() => {});
      while (!over) await vi.advanceTimersByTimeAsync(1);
      return p;
    };
    const other = new TestPage(owner);
    other.credentials = async () => ({ endpoint: "http://server.test", token: "other's" });
    page.credentials = () => new Promise(() => {});
    await soon(other.hello());
    await soon(page.connect(fast));
    await soon(other.connect(fast));
    await until(() => expect(page.status).toMatchObject({ connecting: true, downloadError: null }));
    await vi.advanceTimersByTimeAsync(30_000);
    await until(() => expect(other.status?.downloadError?.message).toContain("fetchCredentials gave nothing within 30 s"));
    await until(() => expect(FakeSocket.all[0]?.sent("open")[0]).toMatchObject({ token: "other's" }));
  });

  it("is tried again when its WebSocket does not open", async () => {
    fakeSockets();
    FakeSocket.reachable = false;
    await page.connect({ ...fast, silence: 30 });
    await until(() => expect(page.status?.downloadError?.message).toBe("the sync WebSocket did not open within 0.03 s"));
    expect(FakeSocket.all[0]?.readyState).toBe(3);
    FakeSocket.reachable = true;
    await until(() => expect(FakeSocket.all.at(-1)?.sent("open")).toHaveLength(1));
  });

  it("with an endpoint that is no URL says so", async () => {
    fakeSockets();
    page.credentials = async () => ({ endpoint: "sync.example.com", token: "t" });
    await page.connect(fast);
    await until(() => expect(page.status?.downloadError?.message).toContain("open the sync stream: Invalid URL"));
  });
});

describe("uploads", () => {
  /** Sends the queue as an app does; `send` may throw. */
  const sender = (p: TestPage, send: (ops: readonly { readonly id: string }[]) => void) => async (): Promise<void> => {
    for (let t = await p.peer.call("nextTransaction", []); t !== null; t = await p.peer.call("nextTransaction", [])) {
      send(t.ops);
      await p.peer.call("completeUpload", [t.id]);
    }
  };

  it("go transaction by transaction, then ask for a write checkpoint, and open the gate when it comes back (U1)", async () => {
    fakeSockets();
    const sent: string[] = [];
    page.upload = sender(page, (ops) => sent.push(ops.map((o) => o.id).join("+")));
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x'), ('2', 'y')");
    await page.write("INSERT INTO todos (id, title) VALUES ('3', 'z')");
    await page.connect(fast);
    const s = await socket(0);
    s.says(checkpoint(1, []), complete(1));
    await until(() => expect(s.sent("checkpoint_request")).toHaveLength(1));
    expect(sent).toEqual(["1+2", "3"]);
    s.says({ checkpoint_request: { id: "7" } });
    s.says({ checkpoint_diff: { last_op_id: "2", updated_buckets: [], removed_buckets: [] } }, complete(2));
    await until(() => expect(page.status?.held).toBe(true));
    expect(await titles()).toEqual(["x", "y", "z"]);
    s.says({ checkpoint_diff: { last_op_id: "3", write_checkpoint: "7", updated_buckets: [], removed_buckets: [] } }, complete(3));
    // The backend made nothing of it: the server's state wins.
    await until(async () => expect(await titles()).toEqual([]));
    await until(() => expect(page.status).toMatchObject({ held: false, pendingUploads: 0, uploading: false, uploadError: null }));
    // Completions came while the write checkpoint was being asked for: that is no reason to ask again.
    expect(s.sent("checkpoint_request")).toHaveLength(1);
  });

  it("ask again, on a new stream, when the server cannot give a write checkpoint (U1)", async () => {
    fakeSockets();
    page.upload = sender(page, () => undefined);
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x')");
    await page.connect(fast);
    const s = await socket(0);
    s.says(checkpoint(1, []), complete(1));
    await until(() => expect(s.sent("checkpoint_request")).toHaveLength(1));
    s.says({ error: { code: "PSYNC_S2003", description: "the sidecar is away", fatal: false } });
    const next = await socket(1);
    expect(s.open).toBe(false); // an answer that comes late is not taken for that of the next request
    next.says(checkpoint(1, []), complete(1));
    await until(() => expect(next.sent("checkpoint_request")).toHaveLength(1));
    next.says({ checkpoint_request: { id: "9" } });
    next.says({ checkpoint_diff: { last_op_id: "2", write_checkpoint: "9", updated_buckets: [], removed_buckets: [] } }, complete(2));
    await until(() => expect(page.status).toMatchObject({ held: false, pendingUploads: 0, uploadError: null }));
  });

  it("that fail are tried again, with attempts and error at the entry (U2)", async () => {
    fakeSockets();
    let fail = true;
    page.upload = sender(page, () => {
      if (fail) throw new Error("the backend is down");
    });
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x')");
    await page.connect(fast);
    (await socket(0)).says(checkpoint(1, []), complete(1));
    await until(async () => expect((await page.peer.call("uploadQueue", [1]))[0]).toMatchObject({ lastError: "upload: the backend is down" }));
    await until(async () => expect((await page.peer.call("uploadQueue", [1]))[0]?.attempts).toBeGreaterThan(1));
    expect(page.status?.uploadError?.message).toBe("upload: the backend is down");
    fail = false;
    await until(() => expect(page.status).toMatchObject({ pendingUploads: 0, uploadError: null }));
  });

  it("that never complete anything are an error", async () => {
    fakeSockets();
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x')");
    await page.connect(fast);
    await until(() => expect(page.status?.uploadError?.message).toContain("without completing the oldest transaction"));
  });

  it("that are rejected are kept aside with the reason, and block nothing (U3)", async () => {
    fakeSockets();
    page.upload = async () => {
      for (let t = await page.peer.call("nextTransaction", []); t !== null; t = await page.peer.call("nextTransaction", [])) {
        if (t.ops[0]?.id === "bad") await page.peer.call("rejectUpload", [t.id, "not yours"]);
        else await page.peer.call("completeUpload", [t.id]);
      }
    };
    await page.write("INSERT INTO todos (id, title) VALUES ('bad', 'x')");
    await page.write("INSERT INTO todos (id, title) VALUES ('good', 'y')");
    await page.connect(fast);
    (await socket(0)).says(checkpoint(1, []));
    await until(() => expect(page.status?.pendingUploads).toBe(0));
    const [rejected] = await page.peer.call("rejectedUploads", [10]);
    expect(rejected).toMatchObject({ op: "PUT", type: "todos", id: "bad", data: { title: "x" }, reason: "not yours" });
    await page.peer.call("forgetRejected", [rejected?.number ?? 0n]);
    expect(await page.peer.call("rejectedUploads", [10])).toEqual([]);
  });

  it("go on in another page when the one that uploads is gone (T6)", async () => {
    fakeSockets();
    const other = await new TestPage(owner).hello();
    let began = false;
    page.upload = () => {
      began = true;
      return new Promise(() => {}); // never done
    };
    other.upload = sender(other, () => {});
    await page.connect(fast); // the one that made the connection is asked first
    await other.connect(fast);
    await until(() => expect(FakeSocket.all.at(-1)?.open).toBe(true));
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x')");
    await until(() => expect(began).toBe(true));
    page.vanish();
    await until(() => expect(other.status?.pendingUploads).toBe(0));
  });
});

it("a damaged op makes only its bucket be asked for again, and nothing of it is shown (S3)", async () => {
  fakeSockets();
  await page.connect(fast);
  const s = await socket(0);
  const [a, b] = [row("a", "Milk") as { checksum: number }, row("b", "Bread") as { checksum: number }];
  const both = [bucket("one", a.checksum, 1), bucket("two", b.checksum, 1)];
  s.says(checkpoint(2, both), { data: { bucket: "one", data: [{ op_id: "1", op: "PUT", ...a }] } });
  s.says({ data: { bucket: "two", data: [{ op_id: "2", op: "PUT", ...b, data: '{"title":"Dread"}' }] } }, complete(2));
  const again = await socket(1);
  expect(again.sent("open")[0]).toMatchObject({ buckets: [{ name: "one", after: "1" }] });
  expect(await titles()).toEqual([]);
  again.says(checkpoint(2, both), { data: { bucket: "two", data: [{ op_id: "2", op: "PUT", ...b }] } }, complete(2));
  await until(async () => expect(await titles()).toEqual(["Bread", "Milk"]));
});
