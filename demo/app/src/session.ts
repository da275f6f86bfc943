/** Somebody lists can be shared with. */
export interface User {
  readonly id: string;
  readonly name: string;
}

/** What the development server gives its own page: it has no log-in. */
export interface Session {
  readonly user: User;
  readonly token: string;
  /** Path of the demo's backend. */
  readonly upload: string;
  readonly users: readonly User[];
}

/** Asks for a user's session. */
export async function fetchSession(user: string, signal: AbortSignal): Promise<Session> {
  const res = await fetch(`/demo/session?user=${encodeURIComponent(user)}`, { signal });
  if (!res.ok) throw new Error((await res.text()).trim() || `the server answered ${res.status}`);
  return (await res.json()) as Session;
}
