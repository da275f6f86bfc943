import type { KeyboardEvent } from "react";
import { useEffect, useMemo, useRef, useState } from "react";
import { useMillrace, useQuery } from "@millrace/client/react";
import type { Device } from "./device";
import { moveFocus, useArrivals } from "./hooks";
import { IconPeople, IconTrash } from "./icons";
import { InlineText } from "./InlineText";
import type { ListRow } from "./Lists";
import type { Todo } from "./schema";
import { Share } from "./Share";
import { TodoItem } from "./TodoItem";

/** So many to-dos are shown of a list. */
const SHOWN = 200;
const TODOS = `SELECT * FROM todos WHERE list_id = ? ORDER BY completed, created_at DESC, id LIMIT ${SHOWN}`;
const COUNT = `SELECT count(*) AS n FROM todos WHERE list_id = ?`;

/** A list: its name, whom it is shared with, and its to-dos. */
export function ListView({ device, list }: { readonly device: Device; readonly list: ListRow }) {
  const db = useMillrace();
  const { data: todos, loading, error } = useQuery<Todo>(TODOS, [list.id]);
  const { data: count } = useQuery<{ n: number }>(COUNT, [list.id]);
  const [title, setTitle] = useState("");
  const [renaming, setRenaming] = useState(false);
  const [sharing, setSharing] = useState(false);
  const [removing, setRemoving] = useState(false);
  const [focused, setFocused] = useState<string | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const items = useRef<HTMLUListElement>(null);
  const shareButton = useRef<HTMLButtonElement>(null);
  const prints = useMemo(() => todos.map((t) => ({ id: t.id, content: `${t.completed} ${t.title}`, stamp: t.created_at })), [todos]);
  const arrived = useArrivals(device, prints, loading);
  const isOwner = list.owner_id === device.user;
  const tabStop = todos.some((t) => t.id === focused) ? focused : (todos[0]?.id ?? null);
  const hidden = (count[0]?.n ?? 0) - todos.length;

  useEffect(() => {
    if (!removing) return;
    const timer = setTimeout(() => setRemoving(false), 4000);
    return () => clearTimeout(timer);
  }, [removing]);

  async function write(ids: readonly string[], sql: string, params: readonly (string | number | null)[]): Promise<void> {
    device.edits.begin(...ids);
    await db.execute(sql, params);
  }

  async function add(): Promise<void> {
    const text = title.trim();
    if (text === "") return;
    setTitle("");
    const id = crypto.randomUUID();
    await write([id], "INSERT INTO todos (id, list_id, title, completed, created_by, created_at) VALUES (?, ?, ?, 0, ?, ?)", [id, list.id, text, device.user, new Date().toISOString()]);
  }

  const toggle = (t: Todo): Promise<void> =>
    write([t.id], "UPDATE todos SET completed = ?, completed_at = ? WHERE id = ?", [t.completed === 1 ? 0 : 1, t.completed === 1 ? null : new Date().toISOString(), t.id]);
  const rename = (t: Todo, to: string): Promise<void> => write([t.id], "UPDATE todos SET title = ? WHERE id = ?", [to, t.id]);

  function remove(t: Todo): void {
    const at = todos.indexOf(t);
    const next = todos[at + 1] ?? todos[at - 1];
    if (next === undefined) field.current?.focus();
    else items.current?.querySelector<HTMLElement>(`[data-todo="${next.id}"]`)?.focus();
    void write([t.id], "DELETE FROM todos WHERE id = ?", [t.id]);
  }

  /** One local transaction: it is uploaded, and refused, as a whole. */
  async function removeList(): Promise<void> {
    device.edits.begin(list.id);
    await db.transaction(async (tx) => {
      await tx.execute("DELETE FROM todos WHERE list_id = ?", [list.id]);
      await tx.execute("DELETE FROM list_members WHERE list_id = ?", [list.id]);
      await tx.execute("DELETE FROM lists WHERE id = ?", [list.id]);
    });
  }

  const leave = (): Promise<void> => write([list.id], "DELETE FROM list_members WHERE id = ?", [`${list.id}.${device.user}`]);

  const keys = (e: KeyboardEvent<HTMLUListElement>): void => {
    if (!moveFocus(e, "[data-todo]") && e.key === "ArrowUp") {
      e.preventDefault();
      field.current?.focus();
    }
  };

  return (
    <main className="list" data-list={list.id}>
      <header className="list-head">
        <h3>
          <InlineText value={list.name ?? ""} label="Name of the list" editing={renaming} onEdit={setRenaming} onChange={(name) => void write([list.id], "UPDATE lists SET name = ? WHERE id = ?", [name, list.id])} />
        </h3>
        {isOwner ? (
          <>
            <button ref={shareButton} type="button" className="quiet share" aria-expanded={sharing} onClick={() => setSharing((v) => !v)}>
              <IconPeople />
              {list.members > 0 ? `Shared · ${list.members}` : "Share"}
            </button>
            <button type="button" className={removing ? "quiet danger" : "quiet icon-only"} aria-label={removing ? undefined : "Delete the list"} title="Delete the list" onClick={() => (removing ? void removeList() : setRemoving(true))}>
              {removing ? "Delete it?" : <IconTrash />}
            </button>
          </>
        ) : (
          <>
            <span className="list-of">{device.nameOf(list.owner_id)}’s</span>
            <button type="button" className="quiet" onClick={() => void leave()}>Leave</button>
          </>
        )}
      </header>
      {sharing && isOwner && (
        <Share
          device={device}
          list={list.id}
          onClose={() => {
            setSharing(false);
            shareButton.current?.focus();
          }}
        />
      )}
      <form
        className="add-todo"
        onSubmit={(e) => {
          e.preventDefault();
          void add();
        }}
      >
        <input
          ref={field}
          value={title}
          onChange={(e) => setTitle(e.target.value)}
          onKeyDown={(e) => {
            if (e.key === "Escape") setTitle("");
            if (e.key === "ArrowDown") {
              e.preventDefault();
              items.current?.querySelector<HTMLElement>("[data-todo]")?.focus();
            }
          }}
          placeholder="What is to be done?"
          aria-label="New to-do"
          maxLength={500}
          enterKeyHint="done"
        />
      </form>
      {error !== null && <p className="notice bad" role="alert">{error.message}</p>}
      <ul className="todos" ref={items} onKeyDown={keys} aria-label={`To-dos of ${list.name}`}>
        {todos.map((t) => (
          <TodoItem
            key={t.id}
            todo={t}
            by={t.created_by !== null && t.created_by !== device.user && t.created_by !== list.owner_id ? device.nameOf(t.created_by) : null}
            arrived={arrived.has(t.id)}
            tabStop={t.id === tabStop}
            onFocus={() => setFocused(t.id)}
            onToggle={() => void toggle(t)}
            onRename={(to) => void rename(t, to)}
            onRemove={() => remove(t)}
          />
        ))}
      </ul>
      {!loading && todos.length === 0 && <p className="hint">Nothing to do. Type above and press Enter.</p>}
      {hidden > 0 && <p className="hint">and {hidden.toLocaleString("en")} more in the database</p>}
    </main>
  );
}
