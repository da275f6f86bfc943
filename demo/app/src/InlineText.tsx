import { useState } from "react";

interface Props {
  readonly value: string;
  readonly label: string;
  /** Begins to edit; the text is the only way in when it is clicked. */
  readonly editing: boolean;
  readonly onEdit: (editing: boolean) => void;
  readonly onChange: (value: string) => void;
}

/** Text that becomes a field: Enter and leaving keep what was typed, Esc does not. */
export function InlineText({ value, label, editing, onEdit, onChange }: Props) {
  const [text, setText] = useState<string | null>(null);
  if (!editing) {
    return (
      <span className="inline-text" onClick={() => onEdit(true)}>
        {value}
      </span>
    );
  }
  const end = (keep: boolean): void => {
    const typed = (text ?? value).trim();
    setText(null);
    onEdit(false);
    if (keep && typed !== "" && typed !== value) onChange(typed);
  };
  return (
    <input
      className="inline-field"
      value={text ?? value}
      aria-label={label}
      maxLength={500}
      autoFocus
      onFocus={(e) => e.target.select()}
      onChange={(e) => setText(e.target.value)}
      onBlur={() => end(true)}
      onKeyDown={(e) => {
        e.stopPropagation();
        if (e.key === "Enter") end(true);
        if (e.key === "Escape") end(false);
      }}
    />
  );
}
