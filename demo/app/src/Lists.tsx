import type { KeyboardEvent } from "react";
import { useState } from "react";
import { moveFocus } from "./hooks";
import { IconPeople, IconPlus } from "./icons";

export interface ListRow {
  readonly id: string;
  readonly name: string | null;
  readonly owner_id: string | null;
  readonly created_at: string | null;
  readonly open: number;
  readonly members: number;
}

/** One's own lists first. */
export const LISTS = `
SELECT l.id, l.name, l.owner_id, l.created_at,
  (SELECT count(*) FROM todos t WHERE t.list_id = l.id AND t.completed = 0) AS open,
  (SELECT count(*) FROM list_members m WHERE m.list_id = l.id) AS members
FROM lists l ORDER BY l.owner_id <> ?, l.created_at, l.id`;

interface Props {
  readonly lists: readonly ListRow[];
  readonly current: string | null;
  readonly arrived: ReadonlySet<string>;
  readonly user: string;
  readonly nameOf: (id: string | null) => string;
  readonly onOpen: (id: string) => void;
  readonly onAdd: (name: string) => Promise<void>;
}

/** The lists at the side. */
export function Lists({ lists, current, arrived, user, nameOf, onOpen, onAdd }: Props) {
  const [name, setName] = useState("");
  const keys = (e: KeyboardEvent<HTMLUListElement>): void => void moveFocus(e, "button");
  return (
    <nav className="lists" aria-label="Lists">
      <ul onKeyDown={keys}>
        {lists.map((l) => (
          <li key={l.id} className={arrived.has(l.id) ? "arrived" : undefined}>
            <button type="button" className="list-link" data-list={l.id} aria-current={l.id === current ? "true" : undefined} tabIndex={l.id === current ? 0 : -1} onClick={() => onOpen(l.id)} onFocus={() => onOpen(l.id)}>
              <span className="list-name">{l.name}</span>
              {l.owner_id !== user ? <span className="list-owner">{nameOf(l.owner_id)}</span> : l.members > 0 && <span className="list-shared" title="shared"><IconPeople /></span>}
              <span className="count" aria-label={`${l.open} open`}>{l.open}</span>
            </button>
          </li>
        ))}
      </ul>
      <form
        className="add-list"
        onSubmit={(e) => {
          e.preventDefault();
          const title = name.trim();
          if (title === "") return;
          setName("");
          void onAdd(title);
        }}
      >
        <IconPlus />
        <input value={name} onChange={(e) => setName(e.target.value)} onKeyDown={(e) => e.key === "Escape" && setName("")} placeholder="New list" aria-label="New list" maxLength={200} />
      </form>
    </nav>
  );
}
