import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { useMillrace, useQuery, useStatus } from "@millrace/client/react";
import type { Device } from "./device";
import { Diagnostics } from "./Diagnostics";
import { useArrivals, useDevice } from "./hooks";
import { ListView } from "./ListView";
import type { ListRow } from "./Lists";
import { Lists, LISTS } from "./Lists";
import { Footer, StatusPill } from "./Status";
import { IconUp } from "./icons";

/** The list that panes begin with: Alice's first one, which Bob has too. */
const FIRST = "00000000-0000-4000-a000-000000000001";

/** One device: its lists, its to-dos, and what its database is doing. */
export function Pane({ device, front }: { readonly device: Device; readonly front: boolean }) {
  const db = useMillrace();
  const state = useDevice(device);
  const status = useStatus();
  const { data: lists, loading } = useQuery<ListRow>(LISTS, [device.user]);
  const [wanted, setWanted] = useState<string | null>(null);
  const [drawer, setDrawer] = useState(false);
  const opener = useRef<HTMLButtonElement>(null);
  const current = lists.find((l) => l.id === wanted) ?? lists.find((l) => l.id === FIRST) ?? lists[0] ?? null;
  const prints = useMemo(() => lists.map((l) => ({ id: l.id, content: l.name ?? "", stamp: l.created_at })), [lists]);
  const arrived = useArrivals(device, prints, loading);
  const name = device.nameOf(device.user);

  const closeDrawer = useCallback(() => {
    setDrawer(false);
    opener.current?.focus();
  }, []);
  useEffect(() => {
    if (state.failure !== null) console.error(state.failure);
  }, [state.failure]);

  async function addList(title: string): Promise<void> {
    const id = crypto.randomUUID();
    device.edits.begin(id);
    await db.execute("INSERT INTO lists (id, name, owner_id, created_at) VALUES (?, ?, ?, ?)", [id, title, device.user, new Date().toISOString()]);
    setWanted(id);
  }

  return (
    <section className={front ? "pane front" : "pane"} data-user={device.user} aria-label={`${name}'s device`}>
      <header className="pane-head">
        <span className="avatar" aria-hidden="true">{name.charAt(0)}</span>
        <h2>{name}</h2>
        <StatusPill status={status} online={state.online} />
        {status.pendingUploads > 0 && (
          <span className="pending" title="Changes that wait for upload; they are kept in the database, over reloads">
            <IconUp />
            <span className="pending-count">{status.pendingUploads}</span> to upload
          </span>
        )}
        <button type="button" className="switch" role="switch" aria-checked={state.online} onClick={() => device.setOnline(!state.online)}>
          <span className="switch-track" aria-hidden="true" />
          {state.online ? "Online" : "Offline"}
        </button>
      </header>
      {state.failure !== null && <p className="notice bad" role="alert">{state.failure}</p>}
      {state.refused !== null && (
        <p className="notice bad" role="alert">
          <span>The backend refused a change, and it was taken back: {state.refused}</span>
          <button type="button" onClick={() => device.dismiss()}>Dismiss</button>
        </p>
      )}
      <div className="pane-body">
        <Lists lists={lists} current={current?.id ?? null} arrived={arrived} user={device.user} nameOf={(id) => device.nameOf(id)} onOpen={setWanted} onAdd={addList} />
        {current !== null ? (
          <ListView key={current.id} device={device} list={current} />
        ) : (
          <main className="list empty">
            <p>{status.hasSynced ? "No lists. Make one beside, or have one shared." : state.online ? "Fetching your lists …" : "Nothing here yet: this device has never been online."}</p>
          </main>
        )}
      </div>
      <Footer device={device} status={status} open={drawer} opener={opener} onToggle={() => setDrawer((v) => !v)} />
      {drawer && <Diagnostics device={device} onClose={closeDrawer} />}
    </section>
  );
}
