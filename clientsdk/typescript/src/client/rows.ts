import type { Columns, Value } from "../sqlite/connection.js";

/** A row as read. */
export type AnyRow = Readonly<Record<string, Value>>;

/** Turns columns into one object per row. */
export function toRows<T>(c: Columns): T[] {
  const out: T[] = new Array<T>(c.rows);
  for (let i = 0; i < c.rows; i++) {
    const row: Record<string, Value> = {};
    for (let k = 0; k < c.names.length; k++) row[c.names[k] as string] = c.values[k]?.[i] ?? null;
    out[i] = row as T;
  }
  return out;
}
