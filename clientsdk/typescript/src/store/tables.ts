import type { Store } from "./store.js";

/**
 * Types of rows a query reads, through views too. SQLite itself says which
 * tables its program opens; a table read only through an index is reported as
 * that index.
 */
export function tablesOf(store: Store, sql: string): string[] {
  const { db } = store;
  const names = new Map<string, string>();
  for (const [name, n] of store.rowTypes()) names.set(`mr_rows_${n}`, name);
  for (const [name, n] of store.localTypes()) names.set(`mr_local_${n}`, name);
  const found = new Set<string>();
  for (const [kind, name] of db.all(`SELECT DISTINCT type, name FROM tables_used(?)`, sql)) {
    const table = kind === "index" ? String(db.row(`SELECT tbl_name FROM sqlite_schema WHERE type = 'index' AND name = ?`, String(name))?.[0]) : String(name);
    const type = names.get(table);
    if (type !== undefined) found.add(type);
  }
  return [...found].sort();
}
