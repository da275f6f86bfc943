import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Listeners } from "../src/client/signals.js";
import type { WatchOptions } from "../src/client/watch.js";
import { Watch } from "../src/client/watch.js";

/** A database of one number; queries wait until they are let go. */
class Source {
  readonly changes = new Listeners<readonly string[] | null>();
  value = 0;
  runs = 0;
  fail: Error | null = null;

  watch(options: WatchOptions = { throttle: 0 }): Watch<number> {
    return new Watch<number>(
      {
        run: async () => {
          this.runs++;
          await Promise.resolve();
          if (this.fail !== null) throw this.fail;
          return [this.value];
        },
        tables: async () => ["todos"],
        onChange: (fn) => this.changes.add(fn),
      },
      options,
    );
  }

  set(v: number, ...types: string[]): void {
    this.value = v;
    this.changes.tell(types);
  }
}

const settled = async (): Promise<void> => void (await vi.advanceTimersByTimeAsync(10));

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

it("gives the result at once, and again for changes of its tables only", async () => {
  const s = new Source();
  const seen: number[][] = [];
  const undo = s.watch().subscribe((rows) => seen.push(rows));
  await settled();
  s.set(1, "lists");
  await settled();
  expect(seen).toEqual([[0]]);
  s.set(2, "lists", "todos");
  await settled();
  s.changes.tell(null); // perhaps everything: another owner, another schema
  await settled();
  expect(seen).toEqual([[0], [2], [2]]);
  undo();
  s.set(3, "todos");
  await settled();
  expect(seen).toHaveLength(3);
});

it("loses no change that comes while the query runs", async () => {
  const s = new Source();
  const seen: number[] = [];
  const undo = s.watch().subscribe(([v]) => {
    seen.push(v as number);
    if (v === 0) s.set(1, "todos"); // while the first result is being handed on
  });
  await settled();
  expect(seen.at(-1)).toBe(1);
  undo();
});

it("gathers changes that come faster than its throttle", async () => {
  const s = new Source();
  const undo = s.watch({ throttle: 50 }).subscribe(() => {});
  await settled();
  for (let i = 0; i < 100; i++) s.set(i, "todos");
  await vi.advanceTimersByTimeAsync(120);
  expect(s.runs).toBe(2);
  undo();
});

it("can be iterated, each time on its own, until broken off or the signal ends", async () => {
  const s = new Source();
  const stop = new AbortController();
  const w = s.watch({ throttle: 0, signal: stop.signal });
  vi.useRealTimers(); // the iteration waits, nobody advances the time
  for await (const [v] of w) {
    if (v === 3) break;
    s.set((v as number) + 1, "todos");
  }
  const seen: number[] = [];
  for await (const [v] of w) {
    seen.push(v as number);
    stop.abort();
  }
  expect(seen).toEqual([3]);
});

it("tells the error that ends it", async () => {
  const s = new Source();
  s.fail = new Error("no such table");
  const onError = vi.fn();
  s.watch().subscribe(() => {}, onError);
  await settled();
  expect(onError).toHaveBeenCalledWith(s.fail);
  await expect((async () => {
    for await (const _ of s.watch());
  })()).rejects.toThrow("no such table");
});

it("waits for nothing once undone", async () => {
  const s = new Source();
  const seen = vi.fn();
  s.watch().subscribe(seen)();
  await settled();
  expect(seen).not.toHaveBeenCalled();
});
