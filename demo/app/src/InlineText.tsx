import { useRef, useState } from "react";

interface Props {
  readonly value: string;
  readonly label: string;
  readonly editing: boolean;
  /** Asks to begin or to end editing. */
  readonly onEdit: (editing: boolean) => void;
  readonly onChange: (value: string) => void;
}

/** Text that becomes a field: Enter and leaving keep what was typed, Esc does not. */
export function InlineText(props: Props) {
  if (props.editing) return <Field {...props} />;
  return (
    <span className="inline-text" onClick={() => props.onEdit(true)}>
      {props.value}
    </span>
  );
}

function Field({ value, label, onEdit, onChange }: Props) {
  const [text, setText] = useState(value);
  const ended = useRef(false); // moving the focus away in the end is leaving, too
  const end = (keep: boolean): void => {
    if (ended.current) return;
    ended.current = true;
    onEdit(false);
    const typed = text.trim();
    if (keep && typed !== "" && typed !== value) onChange(typed);
  };
  return (
    <input
      className="inline-field"
      value={text}
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
