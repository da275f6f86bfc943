/** What lets a device reach the server. */
export interface Credentials {
  /** The server's base URL, "https://sync.example.com". */
  readonly endpoint: string;
  /** A JWT the server accepts. */
  readonly token: string;
}

/** Bounds one call of fetchCredentials. Milliseconds. */
const TIMEOUT = 30_000;

/** Caches what the connector gave, and asks it for one thing at a time. */
export class CredentialsCache {
  private last: Credentials | null = null;
  private asking: Promise<Credentials> | null = null;

  constructor(private readonly fetch: (signal: AbortSignal) => Promise<Credentials | null>) {}

  get cached(): Credentials | null {
    return this.last;
  }

  /** Gives cached credentials, or asks for some; fresh: it asks in any case. */
  get(fresh: boolean, signal: AbortSignal): Promise<Credentials> {
    if (this.last !== null && !fresh) return Promise.resolve(this.last);
    this.asking ??= this.ask(signal).finally(() => (this.asking = null));
    return this.asking;
  }

  private async ask(signal: AbortSignal): Promise<Credentials> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error(`fetchCredentials gave nothing within ${TIMEOUT / 1000} s`)), TIMEOUT);
    const got = await this.fetch(AbortSignal.any([signal, late.signal])).finally(() => clearTimeout(timer));
    if (got === null || got === undefined) throw new Error("there are none: fetchCredentials gave null");
    if (typeof got.token !== "string" || got.token === "" || typeof got.endpoint !== "string" || got.endpoint === "") throw new Error("fetchCredentials gave no endpoint or no token");
    this.last = got;
    return got;
  }
}
