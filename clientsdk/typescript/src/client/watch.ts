import type { AnyRow } from "./rows.js";

/** Least time between two results of a watched query. Milliseconds. */
export const DEFAULT_THROTTLE = 30;

export interface WatchOptions {
  /** Least time between two results. 30 ms. */
  readonly throttle?: number;
  /** Types of rows to watch, for queries whose tables cannot be found out. */
  readonly tables?: readonly string[];
  /** Ends it. */
  readonly signal?: AbortSignal;
}

/** What a watch needs of its database. */
export interface WatchSource<T> {
  readonly run: (signal: AbortSignal) => Promise<T[]>;
  readonly tables: (signal: AbortSignal) => Promise<readonly string[]>;
  /** Tells of types of rows that have changed; null: of all. Gives its undo. */
  readonly onChange: (fn: (types: readonly string[] | null) => void) => () => void;
}

/**
 * A live query: its result at once, and again whenever a table it reads has
 * changed. Nothing runs until it is iterated or subscribed to; each of these
 * runs on its own.
 */
export class Watch<T = AnyRow> implements AsyncIterable<T[]> {
  constructor(
    private readonly source: WatchSource<T>,
    private readonly options: WatchOptions,
  ) {}

  /** Calls with each result, and with the error that ends it. Gives the undo. */
  subscribe(onResult: (rows: T[]) => void, onError?: (error: Error) => void): () => void {
    const stop = new AbortController();
    const results = this.results(stop.signal);
    void (async () => {
      try {
        for await (const rows of results) if (!stop.signal.aborted) onResult(rows);
      } catch (e) {
        if (!stop.signal.aborted) (onError ?? rethrow)(e instanceof Error ? e : new Error(String(e)));
      }
    })();
    return () => stop.abort();
  }

  /** Ends without an error when the signal does; throws the query's. A slow consumer misses results in between. */
  [Symbol.asyncIterator](): AsyncIterator<T[]> {
    return this.results(new AbortController().signal);
  }

  private async *results(stop: AbortSignal): AsyncGenerator<T[], void, undefined> {
    const { source, options } = this;
    const end = new AbortController();
    const given = options.signal === undefined ? [stop] : [stop, options.signal];
    const signal = AbortSignal.any([...given, end.signal]);
    let tables: ReadonlySet<string> | null = null; // not known yet: any change counts
    let changed = true;
    let everything = true;
    let wake: () => void = () => {};
    const undo = source.onChange((types) => {
      everything ||= types === null;
      changed ||= types === null || tables === null || types.some((t) => tables?.has(t) === true);
      if (changed) wake();
    });
    signal.addEventListener("abort", () => wake());
    try {
      while (!signal.aborted) {
        if (!changed) {
          await new Promise<void>((resolve) => (wake = resolve));
          continue;
        }
        if (everything) {
          tables = new Set(options.tables ?? (await source.tables(signal)));
          everything = false;
        }
        changed = false;
        yield await source.run(signal);
        await sleep(options.throttle ?? DEFAULT_THROTTLE, signal);
      }
    } catch (e) {
      if (!signal.aborted) throw e;
    } finally {
      undo();
      end.abort();
    }
  }
}

function rethrow(e: Error): never {
  throw e;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
