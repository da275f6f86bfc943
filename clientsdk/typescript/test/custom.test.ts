import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Owner } from "../src/owner/owner.js";
import { setTarget } from "../src/store/gate.js";
import { completeUpload, nextTransaction } from "../src/store/queue.js";
import { Store } from "../src/store/store.js";
import { TestPage } from "./support/pages.js";
import { fakeSockets, socket } from "./support/socket.js";
import { memory } from "./support/sqlite.js";

// Custom write checkpoints: the backend applies uploads later and gives the number
// with its answer.

const until = (condition: () => void | Promise<void>): Promise<void> => vi.waitFor(condition, { timeout: 60_000, interval: 5 });

describe("an upload with the backend's number", () => {
  let owner: Owner;
  let page: TestPage;
  beforeEach(async () => {
    owner = new Owner(await memory(), true);
    page = await new TestPage(owner).hello();
  });
  afterEach(() => owner.close());

  const fast = { retryMin: 1, retryMax: 5 };
  const checkpoint = (id: number, more: object = {}): object => ({ checkpoint: { last_op_id: String(id), buckets: [], streams: [], ...more } });
  const diff = (id: number, more: object = {}): object => ({ checkpoint_diff: { last_op_id: String(id), updated_buckets: [], removed_buckets: [], ...more } });
  const complete = (id: number): object => ({ checkpoint_complete: { last_op_id: String(id) } });
  const titles = async (): Promise<unknown[]> => (await page.rows("SELECT title FROM todos ORDER BY title")).flat();
  const upload = (numbers: bigint[], meanwhile: () => Promise<void> = async () => undefined) => async (): Promise<void> => {
    for (let t = await page.peer.call("nextTransaction", []); t !== null; t = await page.peer.call("nextTransaction", [])) {
      await meanwhile();
      await page.peer.call("completeUpload", [t.id, numbers.shift()!]);
    }
  };

  it("waits for that number, and asks for none", async () => {
    fakeSockets();
    page.upload = upload([4n, 5n]);
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x')");
    await page.write("INSERT INTO todos (id, title) VALUES ('2', 'y')");
    await page.connect(fast);
    const s = await socket(0);
    s.says(checkpoint(1), complete(1));
    await until(() => expect(page.status).toMatchObject({ pendingUploads: 0, held: true, uploading: false }));
    s.says(diff(2, { write_checkpoint: "4" }), complete(2));
    s.says(diff(3, { write_checkpoint: "4" }), complete(3));
    await until(() => expect(s.sent("ack").at(-1)).toEqual({ op_id: "3" }));
    expect(await titles()).toEqual(["x", "y"]);
    s.says(diff(4, { write_checkpoint: "5" }), complete(4));
    // The backend made nothing of them: the server's state wins.
    await until(async () => expect(await titles()).toEqual([]));
    expect(s.sent("checkpoint_request")).toHaveLength(0);
  });

  it("opens the gate at once if the number has come before the answer", async () => {
    fakeSockets();
    let s: Awaited<ReturnType<typeof socket>>;
    page.upload = upload([5n], async () => {
      s = await socket(0);
      s.says(checkpoint(1), complete(1));
      s.says(diff(2, { write_checkpoint: "5" }), complete(2));
      await until(() => expect(s.sent("ack").at(-1)).toEqual({ op_id: "2" }));
    });
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x')");
    await page.connect(fast);
    await until(async () => expect(await titles()).toEqual([]));
    await until(() => expect(page.status).toMatchObject({ held: false, uploading: false, uploadError: null }));
  });

  it("goes on waiting for it when a relay that has less is asked on a new stream", async () => {
    fakeSockets();
    page.upload = upload([5n]);
    await page.write("INSERT INTO todos (id, title) VALUES ('1', 'x')");
    await page.connect(fast);
    const first = await socket(0);
    first.says(checkpoint(1), complete(1));
    await until(() => expect(page.status).toMatchObject({ pendingUploads: 0, held: true, uploading: false }));
    first.ends();
    const s = await socket(1);
    s.says(checkpoint(1, { write_checkpoint: "4" }), complete(1));
    await until(() => expect(s.sent("checkpoint_request")).toHaveLength(1));
    s.says({ checkpoint_request: { id: "4" } });
    s.says(diff(2, { write_checkpoint: "4" }), complete(2));
    await until(() => expect(s.sent("ack").at(-1)).toEqual({ op_id: "2" }));
    expect(await titles()).toEqual(["x"]);
    s.says(diff(3, { write_checkpoint: "5" }), complete(3));
    await until(async () => expect(await titles()).toEqual([]));
  });
});

describe("the gate's target", () => {
  const opened = async (): Promise<Store> => {
    const store = new Store(await memory(), () => 0, () => "client");
    store.db.run(`INSERT INTO mr_queue (tx, op, type, row_id) VALUES (1, 'PUT', 'a', '1'), (2, 'PUT', 'a', '2')`);
    store.db.run(`UPDATE mr_state SET target = 9223372036854775807`);
    return store;
  };
  const target = (store: Store): unknown => store.db.row(`SELECT CAST(target AS TEXT), custom FROM mr_state`);

  it("is the number of the transaction that empties the queue, and is not lowered", async () => {
    const store = await opened();
    for (const bad of [0n, -1n, 9223372036854775807n]) expect(() => completeUpload(store, 1n, bad)).toThrow("must be from 1");
    completeUpload(store, 1n, 7n);
    expect(target(store)).toEqual(["9223372036854775807", 0]);
    completeUpload(store, 2n, 8n);
    completeUpload(store, 1n, 9n); // again
    expect(target(store)).toEqual(["8", 1]);
    setTarget(store, 3n, 2n);
    expect(target(store)).toEqual(["8", 1]);
    setTarget(store, 1000n, 2n); // of a server that gives numbers again
    expect(target(store)).toEqual(["1000", 0]);
    setTarget(store, 900n, 2n);
    expect(target(store)).toEqual(["900", 0]);
  });

  it("takes up a database of before", async () => {
    const old = await opened();
    old.db.exec(`ALTER TABLE mr_state DROP COLUMN custom`);
    const store = new Store(old.db, () => 0, () => "client");
    expect(nextTransaction(store)?.id).toBe(1n);
    completeUpload(store, 1n);
    completeUpload(store, 2n, 8n);
    expect(target(store)).toEqual(["8", 1]);
  });
});
