/** What carries the stream. */
export type Transport = "websocket" | "http";

/** After so many WebSockets in a row that did not open, HTTP is tried: something between may let none through. */
export const BLOCKED_AFTER = 2;
/** How long HTTP is used before a WebSocket is tried again. Milliseconds. */
export const PROBE_AFTER = 5 * 60_000;

/**
 * Chooses what carries the next stream. A WebSocket that does not open may be
 * blocked, or the server is away: hence HTTP and WebSockets take turns until
 * one of them reaches the server.
 */
export class Route {
  private blocked = 0;
  /** When a WebSocket is to be tried again; unix milliseconds. */
  private probeAt = 0;

  constructor(private readonly fixed: Transport | null) {}

  next(now: number): Transport {
    if (this.fixed !== null) return this.fixed;
    return this.blocked < BLOCKED_AFTER || (this.probeAt !== 0 && now >= this.probeAt) ? "websocket" : "http";
  }

  /** A stream was there, or could not be opened. */
  noted(transport: Transport, reached: boolean, now: number): void {
    if (transport === "http") {
      if (reached) this.probeAt ||= now + PROBE_AFTER;
      else this.blocked = BLOCKED_AFTER - 1;
      return;
    }
    this.blocked = reached ? 0 : this.blocked + 1;
    this.probeAt = reached || this.probeAt === 0 ? 0 : now + PROBE_AFTER;
  }

  /** Milliseconds until a WebSocket is to be tried beside an HTTP stream that is open; null: never. */
  probeIn(now: number): number | null {
    return this.fixed !== null || this.probeAt === 0 ? null : Math.max(0, this.probeAt - now);
  }
}
