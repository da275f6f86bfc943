import type { Millrace, SyncStatus } from "@millrace/client";

/** How long the last change took on its way. Milliseconds. */
export interface Latency {
  readonly ms: number;
  /**
   * edit: from an edit in another pane or window of this browser until it was
   * visible here; commit: from a new row's time at the source until it was
   * visible here; confirmed: from an edit here until the server had sent it back.
   */
  readonly kind: "edit" | "commit" | "confirmed";
}

/** Tells panes of this browser that somebody is editing a row. */
interface Edit {
  readonly db: string;
  readonly id: string;
  readonly at: number;
}

/** Rows that change later than that are not news: the device was away. */
const NEWS = 10 * 60_000;
const REMEMBERED = 1000;

const now = (): number => performance.timeOrigin + performance.now();

/**
 * Measures how long changes take from one pane to the other: a pane says on a
 * channel when it edits, the other one looks when it shows the row.
 */
export class Edits {
  private readonly channel = new BroadcastChannel("millrace-demo-edits");
  private readonly seen = new Map<string, Edit>();
  private readonly listeners = new Set<() => void>();
  /** When the oldest edit here began that is not confirmed, and whether it is in the queue already. */
  private mine: number | null = null;
  private queued = false;
  private latency: Latency | null = null;

  constructor(private readonly db: Pick<Millrace, "name" | "onStatus">) {
    this.channel.onmessage = (e: MessageEvent<Edit>) => this.remember(e.data);
    db.onStatus((s) => this.confirmed(s));
  }

  /** To be called before a row is written here. */
  begin(...ids: readonly string[]): void {
    const at = now();
    this.mine ??= at;
    for (const id of ids) {
      const edit = { db: this.db.name, id, at };
      this.remember(edit);
      this.channel.postMessage(edit);
    }
  }

  /** To be called when rows that have changed are on the page; stamp: the source's time of a new row. Tells whether it came from elsewhere. */
  shown(id: string, stamp: string | null): boolean {
    const edit = this.seen.get(id);
    if (edit !== undefined) {
      this.seen.delete(id);
      if (edit.db === this.db.name) return false;
      this.set({ ms: now() - edit.at, kind: "edit" });
    } else if (stamp !== null) {
      const ms = now() - Date.parse(stamp);
      if (ms >= 0 && ms < NEWS) this.set({ ms, kind: "commit" });
    }
    return true;
  }

  get last(): Latency | null {
    return this.latency;
  }

  subscribe = (fn: () => void): (() => void) => {
    this.listeners.add(fn);
    return () => this.listeners.delete(fn);
  };

  private confirmed(s: SyncStatus): void {
    if (this.mine === null) return;
    this.queued ||= s.pendingUploads > 0;
    if (!this.queued || s.pendingUploads > 0 || s.uploading || s.held || !s.connected) return;
    this.set({ ms: now() - this.mine, kind: "confirmed" });
    this.mine = null;
    this.queued = false;
  }

  private remember(edit: Edit): void {
    this.seen.set(edit.id, edit);
    const oldest = this.seen.keys().next();
    if (this.seen.size > REMEMBERED && oldest.done !== true) this.seen.delete(oldest.value);
  }

  private set(l: Latency): void {
    this.latency = l;
    for (const fn of [...this.listeners]) fn();
  }
}
