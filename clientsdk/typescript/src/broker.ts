/**
 * The SharedWorker that introduces pages to the worker that owns a database. It
 * only passes ports on: browsers give a SharedWorker no file handles, so it
 * cannot own the database itself.
 */
import type { BrokeredPort, BrokerMessage } from "./owner/meeting.js";

interface SharedScope {
  onconnect: ((e: MessageEvent) => void) | null;
}

interface Waiting {
  readonly tab: string;
  readonly port: MessagePort;
}

const owners = new Map<string, MessagePort>();
const waiting = new Map<string, Waiting[]>();
/** Pages that wait for an owner that has not come; older ones ask again. */
const MAX_WAITING = 256;

(self as unknown as SharedScope).onconnect = (e) => {
  const page = e.ports[0];
  if (page === undefined) return;
  page.onmessage = (m: MessageEvent<BrokerMessage>) => {
    const port = m.ports[0];
    if (port === undefined) return;
    const key = m.data.db + "\0" + m.data.owner;
    if (m.data.type === "owner") {
      // One owner per database: the ports of earlier ones are of no use.
      for (const other of owners.keys()) if (other.startsWith(m.data.db + "\0")) owners.delete(other);
      owners.set(key, port);
      for (const w of waiting.get(key) ?? []) introduce(port, w);
      waiting.delete(key);
      return;
    }
    const w = { tab: m.data.tab, port };
    const owner = owners.get(key);
    if (owner !== undefined) return introduce(owner, w);
    const list = waiting.get(key) ?? [];
    list.push(w);
    waiting.set(key, list.slice(-MAX_WAITING));
  };
};

function introduce(owner: MessagePort, w: Waiting): void {
  owner.postMessage({ type: "page", tab: w.tab } satisfies BrokeredPort, [w.port]);
}
