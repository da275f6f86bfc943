/** Bounds the wait between attempts, which doubles with each failure in a row. Milliseconds. */
export interface Backoff {
  readonly min: number;
  readonly max: number;
}

/** The wait after so many failures in a row; whoever waits takes some of it off at random. */
export function delayAfter(b: Backoff, failures: number): number {
  let d = b.min;
  for (let i = 1; i < failures; i++) {
    if (d >= b.max / 2) return b.max;
    d *= 2;
  }
  return d;
}
