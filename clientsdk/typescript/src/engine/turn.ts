/**
 * Lets one user at a time have the connection: SQLite has one, and a
 * transaction of the app may stay open between two messages. First come, first
 * served.
 */
export class Turn {
  private tail: Promise<void> = Promise.resolve();

  /** Waits for the turn; the function given ends it, once. */
  acquire(): Promise<() => void> {
    let end: () => void = () => {};
    const ended = new Promise<void>((resolve) => (end = resolve));
    const mine = this.tail.then(() => {
      let done = false;
      return () => {
        if (done) return;
        done = true;
        end();
      };
    });
    this.tail = this.tail.then(() => ended);
    return mine;
  }

  /** Runs fn in a turn. */
  async run<T>(fn: () => T): Promise<T> {
    const end = await this.acquire();
    try {
      return fn();
    } finally {
      end();
    }
  }
}

const channel = typeof MessageChannel === "undefined" ? null : new MessageChannel();
const waiting: (() => void)[] = [];
if (channel !== null) {
  channel.port1.onmessage = () => waiting.shift()?.();
  (channel.port1 as { unref?: () => void }).unref?.(); // node: does not keep a process alive
}

/** Lets messages that wait be delivered: awaiting a promise alone does not. */
export function pause(): Promise<void> {
  return new Promise((resolve) => {
    if (channel === null) return void setTimeout(resolve, 0);
    waiting.push(resolve);
    channel.port2.postMessage(null);
  });
}
