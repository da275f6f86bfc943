import type { Connector, Credentials } from "@millrace/client";
import { Millrace } from "@millrace/client";
import { Edits } from "./edits";
import { schema } from "./schema";
import type { Session, User } from "./session";
import { fetchSession } from "./session";

/** What the backend answers to an upload it does not take. */
interface Refusal {
  readonly error?: { readonly retryable?: boolean; readonly description?: string };
}

/** What a device tells its pane beside the data. */
export interface DeviceState {
  readonly online: boolean;
  readonly users: readonly User[];
  /** The last write the backend refused for good, until dismissed. */
  readonly refused: string | null;
  /** The database cannot be used. */
  readonly failure: string | null;
}

const offlineKey = (user: string): string => `millrace-demo:${user}:offline`;
const usersKey = "millrace-demo:users";

/** One user's database in this browser, and its way to the server. Pages of one user share both. */
export class Device {
  readonly db: Millrace<(typeof schema)["tables"]>;
  readonly edits: Edits;
  private state: DeviceState;
  private session: Session | null = null;
  private readonly listeners = new Set<() => void>();

  constructor(readonly user: string) {
    this.db = new Millrace({ schema, name: `demo-${user}` });
    this.edits = new Edits(this.db);
    this.state = { online: localStorage.getItem(offlineKey(user)) === null, users: rememberedUsers(), refused: null, failure: null };
    this.db.ready().catch((e: unknown) => this.set({ failure: message(e) }));
    if (this.state.online) this.connect();
    // Another page of this user has switched it.
    window.addEventListener("storage", (e) => {
      if (e.key !== offlineKey(user)) return;
      const online = e.newValue === null;
      this.set({ online });
      if (online) this.connect();
    });
    window.addEventListener("online", () => {
      if (this.state.online) void this.db.reconnect().catch(() => {}); // it tries by itself as well
    });
  }

  get snapshot(): DeviceState {
    return this.state;
  }

  subscribe = (fn: () => void): (() => void) => {
    this.listeners.add(fn);
    return () => this.listeners.delete(fn);
  };

  nameOf(id: string | null): string {
    if (id === null) return "nobody";
    return this.state.users.find((u) => u.id === id)?.name ?? id.charAt(0).toUpperCase() + id.slice(1);
  }

  /** The switch of the pane; kept over reloads. */
  setOnline(online: boolean): void {
    if (online) localStorage.removeItem(offlineKey(this.user));
    else localStorage.setItem(offlineKey(this.user), "1");
    this.set({ online });
    if (online) this.connect();
    else this.db.disconnect().catch((e: unknown) => this.set({ failure: message(e) }));
  }

  dismiss(): void {
    this.set({ refused: null });
  }

  private connect(): void {
    const connector: Connector = { fetchCredentials: (signal) => this.credentials(signal), uploadData: (_, signal) => this.upload(signal) };
    // A demo is watched: it tries again sooner than an app would.
    this.db.connect(connector, { retryMin: 300, retryMax: 3000, appMetadata: { app: "demo" } }).catch((e: unknown) => this.set({ failure: message(e) }));
  }

  private async credentials(signal: AbortSignal): Promise<Credentials> {
    return { endpoint: location.origin, token: (await this.signIn(signal)).token };
  }

  private async signIn(signal: AbortSignal): Promise<Session> {
    this.session = await fetchSession(this.user, signal);
    localStorage.setItem(usersKey, JSON.stringify(this.session.users));
    this.set({ users: this.session.users });
    return this.session;
  }

  private async upload(signal: AbortSignal): Promise<void> {
    for (;;) {
      const tx = await this.db.nextTransaction();
      if (tx === null) return;
      const session = this.session ?? (await this.signIn(signal));
      const res = await fetch(session.upload, {
        method: "POST",
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${session.token}` },
        body: JSON.stringify({ client_id: await this.db.clientId(), transactions: [{ id: String(tx.id), ops: tx.ops }] }),
        signal,
      });
      const { error } = (await res.json().catch(() => ({}))) as Refusal;
      if (res.ok) {
        await tx.complete();
        continue;
      }
      if (res.status === 401) this.session = null;
      const why = error?.description ?? `the backend answered ${res.status}`;
      if (error?.retryable !== false) throw new Error(why);
      await tx.reject(why);
      this.set({ refused: why });
    }
  }

  private set(change: Partial<DeviceState>): void {
    this.state = { ...this.state, ...change };
    for (const fn of [...this.listeners]) fn();
  }
}

export function message(e: unknown): string {
  return e instanceof Error ? e.message : String(e);
}

function rememberedUsers(): readonly User[] {
  try {
    const v: unknown = JSON.parse(localStorage.getItem(usersKey) ?? "[]");
    return Array.isArray(v) ? (v as User[]) : [];
  } catch {
    return []; // not ours
  }
}

const devices = new Map<string, Device>();
/** For the browser's console: `await devices.alice.getAll("SELECT * FROM todos")`. */
const databases: Record<string, Device["db"]> = {};
Object.assign(globalThis, { devices: databases });

/** The device of a user, opened once per page. */
export function device(user: string): Device {
  let d = devices.get(user);
  if (d === undefined) {
    devices.set(user, (d = new Device(user)));
    databases[user] = d.db;
  }
  return d;
}
