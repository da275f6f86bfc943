import { useEffect, useRef } from "react";
import { useMillrace, useQuery } from "@millrace/client/react";
import type { Device } from "./device";
import { useDevice } from "./hooks";
import { IconCheck } from "./icons";

/** Whom a list is shared with: a press adds or removes a member. */
export function Share({ device, list, onClose }: { readonly device: Device; readonly list: string; readonly onClose: () => void }) {
  const db = useMillrace();
  const { users } = useDevice(device);
  const { data } = useQuery<{ user_id: string }>("SELECT user_id FROM list_members WHERE list_id = ?", [list]);
  const members = new Set(data.map((m) => m.user_id));
  const all = new Map(users.filter((u) => u.id !== device.user).map((u) => [u.id, u.name]));
  for (const m of members) if (!all.has(m)) all.set(m, device.nameOf(m)); // offline from the start: names are not known
  const box = useRef<HTMLDivElement>(null);
  const some = all.size > 0;
  useEffect(() => {
    box.current?.querySelector("button")?.focus();
  }, [some]);

  async function toggle(user: string): Promise<void> {
    const id = `${list}.${user}`;
    device.edits.begin(list, id);
    if (members.has(user)) await db.execute("DELETE FROM list_members WHERE id = ?", [id]);
    else await db.execute("INSERT INTO list_members (id, list_id, user_id) VALUES (?, ?, ?)", [id, list, user]);
  }

  return (
    <div ref={box} className="sharing" role="group" aria-label="Share with" onKeyDown={(e) => e.key === "Escape" && onClose()}>
      <span className="sharing-label">Share with</span>
      {[...all].map(([id, name]) => (
        <button key={id} type="button" className="chip" aria-pressed={members.has(id)} data-member={id} onClick={() => void toggle(id)}>
          {members.has(id) && <IconCheck />}
          {name}
        </button>
      ))}
      {!some && <span className="hint">Whom one can share with is known once this device was online.</span>}
    </div>
  );
}
