/** The stream over HTTP, where no WebSocket gets through. */
import { afterEach, beforeEach, expect, it, onTestFinished, vi } from "vitest";
import { putChecksum } from "../src/checksum.js";
import { PROBE_AFTER } from "../src/engine/route.js";
import { Owner } from "../src/owner/owner.js";
import { TestPage } from "./support/pages.js";
import { fakeSockets, FakeSocket } from "./support/socket.js";
import { memory } from "./support/sqlite.js";

let owner: Owner;
let page: TestPage;
beforeEach(async () => {
  owner = new Owner(await memory(), true);
  page = await new TestPage(owner).hello();
});
afterEach(() => owner.close());

const fast = { retryMin: 1, retryMax: 5 };
const until = (condition: () => void | Promise<void>): Promise<void> => vi.waitFor(condition, { timeout: 60_000, interval: 5 });

/** A stream's response, whose lines the test sends. */
class FakeStream {
  readonly body: Record<string, unknown>;
  readonly response: Response;
  ended = false;
  private to!: ReadableStreamDefaultController<Uint8Array>;

  constructor(
    readonly url: string,
    readonly init: RequestInit,
  ) {
    this.body = JSON.parse(init.body as string) as Record<string, unknown>;
    this.response = new Response(new ReadableStream<Uint8Array>({ start: (c) => void (this.to = c), cancel: () => void (this.ended = true) }));
    init.signal?.addEventListener("abort", () => {
      this.ended = true;
      this.to.error(new Error("aborted"));
    });
  }

  /** Sends text as it is, perhaps half a line. */
  sends(text: string): void {
    this.to.enqueue(new TextEncoder().encode(text));
  }

  says(...lines: object[]): void {
    this.sends(lines.map((l) => JSON.stringify(l) + "\n").join(""));
  }

  get authorization(): string | undefined {
    return (this.init.headers as Record<string, string>).authorization;
  }
}

/** Puts a server in the place of fetch; other answers than streams are the test's. */
function fakeServer(answer: (url: URL) => Response = () => new Response("", { status: 404 })): FakeStream[] {
  const streams: FakeStream[] = [];
  vi.stubGlobal("fetch", async (input: URL, init: RequestInit) => {
    if (init.method !== "POST") return answer(input);
    const s = new FakeStream(String(input), init);
    streams.push(s);
    return s.response;
  });
  onTestFinished(() => void vi.unstubAllGlobals());
  return streams;
}

const title = JSON.stringify({ title: "Milk" });
const op = { op_id: "1", op: "PUT", object_type: "todos", object_id: "a", data: title, checksum: putChecksum("todos", "a", "", title) };
const checkpoint = (id: number, more: object = {}): object => ({ checkpoint: { last_op_id: String(id), buckets: [{ bucket: "b", checksum: op.checksum, count: 1, priority: 3, subscriptions: [] }], streams: [], ...more } });
const firstSync = [checkpoint(1), { data: { bucket: "b", data: [op] } }, { checkpoint_complete: { last_op_id: "1" } }];

it("takes over after two WebSockets that do not open, and brings what they would", async () => {
  fakeSockets();
  FakeSocket.reachable = false;
  const streams = fakeServer();
  const connected = page.connect({ ...fast, silence: 200, parameters: { tenant: "x" } });
  await until(() => expect(FakeSocket.all).toHaveLength(1));
  FakeSocket.all[0]?.ends();
  await until(() => expect(FakeSocket.all).toHaveLength(2));
  FakeSocket.all[1]?.ends();
  await connected;
  await until(() => expect(streams).toHaveLength(1));
  const [s] = streams as [FakeStream];
  expect([s.url, s.authorization]).toEqual(["http://server.test/base/sync/stream", "Bearer t1"]);
  expect(s.body).toMatchObject({ buckets: [], raw_data: true, include_checksum: true, parameters: { tenant: "x" } });
  expect(s.body).not.toHaveProperty("token");
  // In pieces that end where they like.
  const text = firstSync.map((l) => JSON.stringify(l) + "\n").join("");
  for (let i = 0; i < text.length; i += 50) s.sends(text.slice(i, i + 50));
  await until(async () => expect(await page.rows("SELECT title FROM todos")).toEqual([["Milk"]]));
  await until(() => expect(page.status).toMatchObject({ connected: true, hasSynced: true, downloadError: null }));
  expect(FakeSocket.all).toHaveLength(2);
});

it("asks for write checkpoints at their own address", async () => {
  fakeSockets();
  const asked: string[] = [];
  const streams = fakeServer((url) => {
    asked.push(url.pathname + url.search);
    return Response.json({ data: { write_checkpoint: "7" } });
  });
  page.upload = async () => {
    for (let t = await page.peer.call("nextTransaction", []); t !== null; t = await page.peer.call("nextTransaction", [])) await page.peer.call("completeUpload", [t.id]);
  };
  await page.write("INSERT INTO todos (id, title) VALUES ('w', 'x')");
  await page.connect({ ...fast, transport: "http" });
  await until(() => expect(streams).toHaveLength(1));
  streams[0]?.says(...firstSync);
  await until(() => expect(asked).toHaveLength(1));
  expect(asked[0]).toBe(`/base/write-checkpoint2.json?client_id=${String(streams[0]?.body.client_id)}`);
  await until(() => expect(page.status).toMatchObject({ held: true, uploading: false }));
  streams[0]?.says({ checkpoint_diff: { last_op_id: "2", write_checkpoint: "7", updated_buckets: [], removed_buckets: [] } }, { checkpoint_complete: { last_op_id: "2" } });
  await until(async () => expect(await page.rows("SELECT title FROM todos")).toEqual([["Milk"]]));
  expect(page.status).toMatchObject({ pendingUploads: 0, uploadError: null });
  expect(FakeSocket.all).toEqual([]);
});

it("opens another stream for another list, and asks for a new token when the server refuses one", async () => {
  fakeSockets();
  const streams = fakeServer();
  await page.connect({ ...fast, transport: "http" });
  await until(() => expect(streams).toHaveLength(1));
  streams[0]?.says(...firstSync);
  await until(() => expect(page.status?.hasSynced).toBe(true));
  const before = page.events.length;
  await page.peer.call("subscribe", [{ name: "project", params: '{"id":"p"}' }, null, 1000]);
  await until(() => expect(streams).toHaveLength(2));
  expect(streams[0]?.ended).toBe(true);
  expect(streams[1]?.body).toMatchObject({ buckets: [{ name: "b", after: "1" }], streams: { subscriptions: [{ stream: "project", parameters: { id: "p" } }] } });
  // The page does not notice.
  expect(page.events.slice(before).filter((e) => e.type === "status" && !e.status.connected)).toEqual([]);
  page.credentials = async () => ({ endpoint: "http://server.test", token: "t2" });
  vi.stubGlobal("fetch", async () => new Response("expired", { status: 401 }));
  streams[1]?.says({ token_expires_in: 0 });
  await until(() => expect(page.status?.downloadError?.message).toBe("the sync stream: the server answered 401: expired"));
});

it("gives way to a WebSocket that opens again", async () => {
  fakeSockets();
  FakeSocket.reachable = false;
  const streams = fakeServer();
  void page.connect(fast);
  for (let n = 1; n <= 2; n++) {
    await until(() => expect(FakeSocket.all).toHaveLength(n));
    FakeSocket.all[n - 1]?.ends();
  }
  await until(() => expect(streams).toHaveLength(1));
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  onTestFinished(() => void vi.useRealTimers());
  streams[0]?.says(...firstSync);
  await until(() => expect(page.status?.hasSynced).toBe(true));
  FakeSocket.reachable = true;
  // The server goes on saying something, so the stream lives.
  for (let passed = 0; passed <= PROBE_AFTER; passed += 20_000) {
    if (streams[0]?.ended === false) streams[0].says({ token_expires_in: 3600 });
    await vi.advanceTimersByTimeAsync(20_000);
  }
  await until(() => expect(FakeSocket.all.at(-1)?.sent("open")[0]).toMatchObject({ buckets: [{ name: "b", after: "1" }] }));
  expect(streams[0]?.ended).toBe(true);
  FakeSocket.all.at(-1)?.says(checkpoint(1), { checkpoint_complete: { last_op_id: "1" } });
  await until(() => expect(page.status).toMatchObject({ connected: true, downloadError: null }));
});
