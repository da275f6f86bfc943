import type { Data } from "../protocol/lines.js";
import type { Begin, Complete, DownEvent } from "../machine/downlink.js";
import { complete } from "../store/publish.js";
import type { Progress } from "../store/stage.js";
import { BadBucketError, begin, dropBad, stage } from "../store/stage.js";
import type { Store } from "../store/store.js";

/**
 * Bounds of what is staged in one transaction: large enough that committing
 * costs little, small enough that a local write need not wait long.
 */
const BATCH_OPS = 4_000;
const BATCH_CHARS = 4 << 20;

/** From so many ops to come on, the store is told of a bulk. */
const BULK_OPS = 10_000;

export type StorageAction = Begin | Complete | { readonly type: "DropBuckets"; readonly names: readonly string[] };

/**
 * Runs the storage actions of the download half. Ops are collected and staged
 * together; everything else stages them first.
 */
export class Applier {
  private batch: Data[] = [];
  private ops = 0;
  private chars = 0;
  /** Towards the target. */
  progress: Progress = { downloaded: 0, total: 0 };

  constructor(
    private readonly store: Store,
    private readonly verify: boolean,
  ) {}

  get empty(): boolean {
    return this.batch.length === 0;
  }

  /** Collects a data line; true if it is time to flush. */
  add(d: Data): boolean {
    this.batch.push(d);
    this.ops += d.ops.length;
    for (const op of d.ops) this.chars += op.data.length;
    return this.ops >= BATCH_OPS || this.chars >= BATCH_CHARS;
  }

  /** Forgets what was collected: its stream is gone. */
  discard(): void {
    this.batch = [];
    this.ops = this.chars = 0;
  }

  /** Stages what was collected. null means success. Of a bucket that is found wrong nothing is staged, of the others everything. */
  flush(attempt: number): DownEvent | null {
    const bad: BadBucketError[] = [];
    let lines = this.batch;
    try {
      while (lines.length > 0) {
        try {
          stage(this.store, lines, this.verify);
          break;
        } catch (e) {
          if (!(e instanceof BadBucketError)) return failure(attempt, e);
          bad.push(e);
          lines = lines.filter((l) => l.bucket !== e.bucket);
        }
      }
      const ops = lines.reduce((n, l) => n + l.ops.length, 0);
      this.progress = { ...this.progress, downloaded: this.progress.downloaded + ops };
      const [first] = bad;
      return first === undefined ? null : { type: "Corrupt", attempt, buckets: bad.map((e) => e.bucket), error: first };
    } finally {
      this.discard();
    }
  }

  /** Does a storage action after staging what was collected before it. The event, if there is one, goes back into the machine. */
  run(attempt: number, action: StorageAction): DownEvent | null {
    const failed = this.flush(attempt);
    if (failed !== null) return failed;
    try {
      return this.act(attempt, action);
    } catch (e) {
      return failure(attempt, e);
    }
  }

  private act(attempt: number, action: StorageAction): DownEvent | null {
    switch (action.type) {
      case "Begin":
        this.progress = begin(this.store, action.whole, action.updated, action.removed);
        if (this.progress.total - this.progress.downloaded >= BULK_OPS) this.store.bulk(true);
        return null;
      case "DropBuckets":
        dropBad(this.store, action.names);
        return null;
      case "Complete": {
        const { bad, published } = complete(this.store, action);
        const first = bad[0];
        if (first === undefined && action.full) this.store.bulk(false);
        if (first === undefined) return { type: "Applied", attempt, opId: action.opId, full: action.full, published };
        const error = new BadBucketError(first, `the sum of its checksums differs from the server's at checkpoint ${action.opId}`);
        return { type: "Corrupt", attempt, buckets: bad, error };
      }
    }
  }
}

/** An error of the storage as an event. */
export function failure(attempt: number, e: unknown): DownEvent {
  const cause = e instanceof Error ? e : new Error(String(e));
  return { type: "StorageFailed", attempt, error: new Error("local database: " + cause.message, { cause }) };
}
