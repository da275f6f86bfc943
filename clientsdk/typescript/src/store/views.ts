import type { ColumnType, Schema, Table } from "../schema.js";
import { HIDDEN, localTable, OPEN_TARGET, rowsTable, sqlName, sqlText, VISIBLE } from "./layout.js";
import type { Store } from "./store.js";

/** Names of triggers and indexes made from the schema start with this. */
const PREFIX = "mr_t_";

/** The expression that reads a column. Views and indexes use the same text, or SQLite would not use the index. */
const column = (name: string, type: ColumnType): string => `CAST(json_extract(data, ${sqlText(`$."${name}"`)}) AS ${type.toUpperCase()})`;

/** The SQL that makes the view of a table, its triggers and its indexes; n is the number of its type's table. */
function statements(name: string, t: Table, n: number): string[] {
  const triggers = t.localOnly ? localTriggers(name, t, n) : t.insertOnly ? insertOnlyTriggers(name, t) : syncedTriggers(name, t, n);
  return [view(name, t, n), ...triggers, ...indexes(name, t, n)];
}

function view(name: string, t: Table, n: number): string {
  const columns = Object.entries(t.columns).map(([c, type]) => `, ${column(c, type)} AS ${sqlName(c)}`);
  const from = t.localOnly ? localTable(n) : `${rowsTable(n)} WHERE ${t.insertOnly ? "0" : VISIBLE}`;
  return `CREATE VIEW ${sqlName(name)} AS SELECT id${columns.join("")} FROM ${from}`;
}

function indexes(name: string, t: Table, n: number): string[] {
  if (t.insertOnly) return [];
  return Object.entries(t.indexes).map(([index, over]) => {
    const terms = over.map((c) => {
      const plain = c.replace(/^-/, "");
      const found = Object.entries(t.columns).find(([have]) => have.toLowerCase() === plain.toLowerCase());
      return (found === undefined ? "id" : column(found[0], found[1])) + (c.startsWith("-") ? " DESC" : "");
    });
    return `CREATE INDEX ${sqlName(`${PREFIX}${name}_${index}`)} ON ${t.localOnly ? localTable(n) : rowsTable(n)} (${terms.join(", ")})`;
  });
}

type Event = "INSERT" | "UPDATE" | "DELETE";

function trigger(name: string, event: Event, body: readonly string[]): string {
  return `CREATE TRIGGER ${sqlName(`${PREFIX}${name}_${event.toLowerCase()}`)} INSTEAD OF ${event} ON ${sqlName(name)} BEGIN\n  ${body.join(";\n  ")};\nEND`;
}

const guard = (name: string, condition: string, message: string): string => `SELECT RAISE(ABORT, ${sqlText(`${name}: ${message}`)}) WHERE ${condition}`;

/** The JSON object of the columns for which the condition holds. */
function object(t: Table, condition: (column: string) => string): string {
  const terms = Object.keys(t.columns).map((c) => `SELECT ${sqlText(c)} AS k, NEW.${sqlName(c)} AS v WHERE ${condition(sqlName(c))}`);
  return terms.length === 0 ? "'{}'" : `(SELECT json_group_object(k, v) FROM (${terms.join(" UNION ALL ")}))`;
}

const inserted = (t: Table): string => object(t, (c) => `NEW.${c} IS NOT NULL`);
const patched = (t: Table): string => object(t, (c) => `NEW.${c} IS NOT OLD.${c}`);
/** data with the changed columns: one set to null loses its key, what no column names stays. */
const merged = (t: Table): string => `json_patch(data, ${patched(t)})`;

const noted = (name: string): string => `INSERT OR IGNORE INTO mr_changes VALUES (${sqlText(name)})`;

/** Puts the written row into the upload queue and shuts the gate. */
function enqueue(name: string, op: string, id: string, data: string): string[] {
  return [
    `INSERT INTO mr_queue (tx, op, type, row_id, data) SELECT tx, '${op}', ${sqlText(name)}, ${id}, ${data} FROM mr_state`,
    `UPDATE mr_state SET target = ${OPEN_TARGET}, seen = 0`,
    noted(name),
  ];
}

const checks = (name: string, t: Table): string[] =>
  Object.keys(t.columns).map((c) => guard(name, `typeof(NEW.${sqlName(c)}) = 'blob'`, `column ${c} cannot hold a BLOB: rows are JSON; encode it as text`));

const idCheck = (name: string): string => guard(name, "NEW.id IS NULL OR typeof(NEW.id) <> 'text' OR NEW.id = ''", "an inserted row needs a text id: generate one (a UUID)");
const sameId = (name: string): string => guard(name, "NEW.id IS NOT OLD.id", "the id of a row cannot change: delete it and insert another");

function syncedTriggers(name: string, t: Table, n: number): string[] {
  const rows = rowsTable(n);
  const touch = (id: string): string => `INSERT OR IGNORE INTO mr_touched VALUES (${n}, ${id})`;
  const own = (id: string, data: string): string =>
    `INSERT INTO ${rows} (id, bucket, subkey, op_id, wave, checksum, data) VALUES (${id}, 0, '', 0, ${data === "NULL" ? HIDDEN : 0}, 0, ${data})`;
  return [
    trigger(name, "INSERT", [
      ...checks(name, t),
      idCheck(name),
      guard(name, `EXISTS (SELECT 1 FROM ${rows} WHERE id = NEW.id AND ${VISIBLE})`, "UNIQUE constraint failed: a row with this id exists"),
      ...enqueue(name, "PUT", "NEW.id", inserted(t)),
      touch("NEW.id"),
      `DELETE FROM ${rows} WHERE id = NEW.id AND bucket = 0`,
      own("NEW.id", inserted(t)),
    ]),
    trigger(name, "UPDATE", [
      ...checks(name, t),
      sameId(name),
      ...enqueue(name, "PATCH", "OLD.id", patched(t)),
      touch("OLD.id"),
      `INSERT INTO ${rows} (id, bucket, subkey, op_id, wave, checksum, data) SELECT id, 0, '', 0, ${HIDDEN}, 0, data FROM ${rows} WHERE id = OLD.id AND bucket <> 0 AND ${VISIBLE}`,
      `UPDATE ${rows} SET wave = CASE bucket WHEN 0 THEN 0 ELSE ${HIDDEN} END, data = CASE bucket WHEN 0 THEN ${merged(t)} ELSE data END
        WHERE id = OLD.id AND (bucket = 0 OR wave <> ${HIDDEN})`,
    ]),
    trigger(name, "DELETE", [
      ...enqueue(name, "DELETE", "OLD.id", "NULL"),
      touch("OLD.id"),
      `DELETE FROM ${rows} WHERE id = OLD.id AND bucket = 0`,
      `UPDATE ${rows} SET wave = ${HIDDEN} WHERE id = OLD.id AND wave <> ${HIDDEN}`,
      own("OLD.id", "NULL"),
    ]),
  ];
}

function localTriggers(name: string, t: Table, n: number): string[] {
  const rows = localTable(n);
  return [
    trigger(name, "INSERT", [...checks(name, t), idCheck(name), `INSERT INTO ${rows} (id, data) VALUES (NEW.id, ${inserted(t)})`, noted(name)]),
    trigger(name, "UPDATE", [...checks(name, t), sameId(name), `UPDATE ${rows} SET data = ${merged(t)} WHERE id = OLD.id`, noted(name)]),
    trigger(name, "DELETE", [`DELETE FROM ${rows} WHERE id = OLD.id`, noted(name)]),
  ];
}

function insertOnlyTriggers(name: string, t: Table): string[] {
  return [trigger(name, "INSERT", [...checks(name, t), idCheck(name), ...enqueue(name, "PUT", "NEW.id", inserted(t))])];
}

/** Rebuilds the views if they differ from what the schema asks for. No row is read or written, but to fill new indexes. */
export function applySchema(store: Store, schema: Schema): void {
  store.write(false, () => {
    const made = Object.entries(schema.tables).flatMap(([name, t]) => statements(name, t, t.localOnly ? store.localId(name) : store.typeId(name)));
    const have = String(store.db.row(`SELECT views FROM mr_state`)?.[0]);
    const wanted = JSON.stringify(made);
    if (have === wanted) return;
    const kept = dropViews(store, new Set(made));
    for (const q of made) if (!kept.has(q)) store.db.exec(q);
    store.db.run(`UPDATE mr_state SET views = ?`, wanted);
  });
}

/** Drops what an earlier schema made; gives the indexes that stay as they are, since filling one anew costs time. */
function dropViews(store: Store, made: ReadonlySet<string>): Set<string> {
  const kept = new Set<string>();
  const views = new Set<string>();
  const pattern = PREFIX.replaceAll("_", "\\_") + "%";
  for (const [kind, name, table, sql] of store.db.all(`SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name LIKE ? ESCAPE '\\'`, pattern)) {
    if (kind === "trigger") views.add(String(table)); // its view, and with it all its triggers
    else if (kind === "index" && made.has(String(sql))) kept.add(String(sql));
    else if (kind === "index") store.db.exec(`DROP INDEX ${sqlName(String(name))}`);
  }
  for (const v of views) store.db.exec(`DROP VIEW ${sqlName(v)}`);
  return kept;
}
