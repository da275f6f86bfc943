import type { KeyboardEvent } from "react";
import { useRef, useState } from "react";
import { IconCheck, IconTrash } from "./icons";
import { InlineText } from "./InlineText";
import type { Todo } from "./schema";

interface Props {
  readonly todo: Todo;
  /** Who made it, if neither this user nor the list's owner did. */
  readonly by: string | null;
  readonly arrived: boolean;
  readonly tabStop: boolean;
  readonly onFocus: () => void;
  readonly onToggle: () => void;
  readonly onRename: (title: string) => void;
  readonly onRemove: () => void;
}

/** A to-do: Space checks it, Enter or F2 renames it, Delete deletes it. */
export function TodoItem({ todo, by, arrived, tabStop, onFocus, onToggle, onRename, onRemove }: Props) {
  const [editing, setEditing] = useState(false);
  const row = useRef<HTMLLIElement>(null);
  const done = todo.completed === 1;
  const keys = (e: KeyboardEvent<HTMLLIElement>): void => {
    if (e.target !== row.current) return;
    if (e.key === " ") onToggle();
    else if (e.key === "Enter" || e.key === "F2") setEditing(true);
    else if (e.key === "Delete" || e.key === "Backspace") onRemove();
    else return;
    e.preventDefault();
  };
  return (
    <li ref={row} data-todo={todo.id} className={`todo${done ? " done" : ""}${arrived ? " arrived" : ""}`} tabIndex={tabStop ? 0 : -1} onFocus={onFocus} onKeyDown={keys} aria-label={`${todo.title}${done ? ", done" : ""}`}>
      <button type="button" className="box" role="checkbox" aria-checked={done} aria-label={done ? "done" : "not done"} tabIndex={-1} onClick={onToggle}>
        {done && <IconCheck />}
      </button>
      <span className="todo-title">
        <InlineText
          value={todo.title ?? ""}
          label="Title"
          editing={editing}
          onEdit={(v) => {
            setEditing(v);
            if (!v) row.current?.focus();
          }}
          onChange={onRename}
        />
      </span>
      {by !== null && <span className="by">{by}</span>}
      <button type="button" className="quiet icon-only remove" aria-label={`Delete ${todo.title}`} tabIndex={-1} onClick={onRemove}>
        <IconTrash />
      </button>
    </li>
  );
}
