import { useEffect, useLayoutEffect, useRef, useState, useSyncExternalStore } from "react";
import type { Device, DeviceState } from "./device";
import type { Latency } from "./edits";

export function useDevice(d: Device): DeviceState {
  return useSyncExternalStore(d.subscribe, () => d.snapshot);
}

export function useLatency(d: Device): Latency | null {
  return useSyncExternalStore(d.edits.subscribe, () => d.edits.last);
}

/** What is compared of a row, and the source's time of it if it is new. */
export interface Fingerprint {
  readonly id: string;
  readonly content: string;
  readonly stamp: string | null;
}

/** How long a row that came from elsewhere stays marked. Milliseconds. */
const MARKED = 1600;

/**
 * Looks at rows each time they are on the page: measures the way of those that
 * came from elsewhere, and gives their ids for a while. The first result is no
 * news; nor is a row that only came into view. loading: rows are not there yet.
 */
export function useArrivals(d: Device, rows: readonly Fingerprint[], loading: boolean): ReadonlySet<string> {
  const known = useRef<ReadonlyMap<string, string> | null>(null);
  const [arrived, setArrived] = useState<ReadonlySet<string>>(new Set());
  useLayoutEffect(() => {
    if (loading) return;
    const before = known.current;
    known.current = new Map(rows.map((r) => [r.id, r.content]));
    if (before === null) return;
    const fresh: string[] = [];
    for (const r of rows) {
      const was = before.get(r.id);
      if (was !== r.content && d.edits.shown(r.id, was === undefined ? r.stamp : null)) fresh.push(r.id);
    }
    for (const id of before.keys()) if (!known.current.has(id)) d.edits.shown(id, null);
    if (fresh.length > 0) setArrived((s) => new Set([...s, ...fresh]));
  }, [d, rows, loading]);
  useEffect(() => {
    if (arrived.size === 0) return;
    const timer = setTimeout(() => setArrived(new Set()), MARKED);
    return () => clearTimeout(timer);
  }, [arrived]);
  return arrived;
}

/** Moves the focus among the elements of a list by arrow keys, Home and End. True if it did. */
export function moveFocus(e: { readonly key: string; readonly currentTarget: HTMLElement; preventDefault(): void }, selector: string): boolean {
  const all = [...e.currentTarget.querySelectorAll<HTMLElement>(selector)];
  const at = all.findIndex((x) => x === document.activeElement || x.contains(document.activeElement));
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[e.key];
  if (to === undefined) return false;
  const target = all[Math.min(to, all.length - 1)];
  if (to < 0 || target === undefined) return false;
  e.preventDefault();
  target.focus();
  return true;
}
