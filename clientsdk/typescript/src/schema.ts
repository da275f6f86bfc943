/**
 * The app's view of its data. It can change at every start of the app: rows are
 * stored without a schema, and only views, triggers and indexes are made anew.
 */

export type ColumnType = "text" | "integer" | "real";

/** Text, the default. */
export const text = "text";
/** A 64-bit integer; booleans are 0 and 1. */
export const integer = "integer";
/** A floating-point number. */
export const real = "real";

export type Columns = Readonly<Record<string, ColumnType>>;

/** A column of an index; a "-" before its name means descending. */
export type IndexColumn<C extends Columns> = (keyof C & string) | "id" | `-${keyof C & string}`;

export interface TableOptions<C extends Columns> {
  /** By name, the columns of each index. */
  readonly indexes?: Readonly<Record<string, readonly IndexColumn<C>[]>>;
  /** Rows stay on the device: neither uploaded nor downloaded. */
  readonly localOnly?: boolean;
  /** Inserts are queued for upload and kept nowhere else; the table stays empty. For logs and events. */
  readonly insertOnly?: boolean;
}

/** One table: a view of the synced rows whose type is its name, writable like a table, with a text `id` beside its columns. */
export interface Table<C extends Columns = Columns> {
  readonly columns: C;
  readonly indexes: Readonly<Record<string, readonly string[]>>;
  readonly localOnly: boolean;
  readonly insertOnly: boolean;
}

export type Tables = Readonly<Record<string, Table>>;

export interface Schema<T extends Tables = Tables> {
  readonly tables: T;
}

/** A table of the schema. */
export function table<const C extends Columns>(columns: C, options: TableOptions<C> = {}): Table<C> {
  return { columns, indexes: options.indexes ?? {}, localOnly: options.localOnly ?? false, insertOnly: options.insertOnly ?? false };
}

/** A schema of tables by name; throws a {@link SchemaError} if it cannot be. */
export function defineSchema<const T extends Tables>(tables: T): Schema<T> {
  for (const [name, t] of Object.entries(tables)) checkTable(name, t);
  const seen = new Map<string, string>();
  for (const name of Object.keys(tables)) {
    const other = seen.get(name.toLowerCase());
    if (other !== undefined) throw new SchemaError(`tables "${other}" and "${name}" differ only in case, which SQLite ignores`);
    seen.set(name.toLowerCase(), name);
  }
  return { tables };
}

type ValueOf<T extends ColumnType> = T extends "text" ? string : number;

/** What a row of a table looks like when read: `Row<typeof schema, "todos">`. */
export type Row<S extends Schema, N extends keyof S["tables"]> = {
  [C in keyof S["tables"][N]["columns"] | "id"]: C extends "id" ? string : C extends keyof S["tables"][N]["columns"] ? ValueOf<S["tables"][N]["columns"][C]> | null : never;
};

/** A schema that cannot be. */
export class SchemaError extends Error {
  override readonly name = "MillraceSchemaError";
}

const MAX_NAME_BYTES = 128;

function checkName(name: string, what: string): void {
  const say = (why: string): never => {
    throw new SchemaError(`${what} "${name}": ${why}`);
  };
  if (name === "") say("the name is empty");
  if (new TextEncoder().encode(name).length > MAX_NAME_BYTES) say(`the name is longer than ${MAX_NAME_BYTES} bytes`);
  if (/^(mr_|sqlite_)/i.test(name)) say("names that start with mr_ or sqlite_ are taken");
  if (/["'\\`[\]\0\n\r]/.test(name)) say("the name has a quote, bracket, backslash or line end");
}

function checkTable(name: string, t: Table): void {
  checkName(name, "table");
  if (t.localOnly && t.insertOnly) throw new SchemaError(`table "${name}": localOnly and insertOnly exclude each other: its rows would be kept nowhere`);
  const columns = new Set(["id"]);
  for (const [column, type] of Object.entries(t.columns)) {
    checkName(column, `table "${name}": column`);
    if (type !== "text" && type !== "integer" && type !== "real") throw new SchemaError(`table "${name}": column "${column}": unknown type "${String(type)}" (text, integer or real)`);
    const low = column.toLowerCase();
    if (low === "id") throw new SchemaError(`table "${name}": every table has an id column already, leave it out`);
    if (columns.has(low)) throw new SchemaError(`table "${name}": column "${column}" is there twice (SQLite ignores case)`);
    columns.add(low);
  }
  for (const [index, over] of Object.entries(t.indexes)) {
    checkName(index, `table "${name}": index`);
    if (over.length === 0) throw new SchemaError(`table "${name}": index "${index}" has no columns`);
    for (const c of over) {
      if (!columns.has(c.replace(/^-/, "").toLowerCase())) throw new SchemaError(`table "${name}": index "${index}": no column "${c}"`);
    }
  }
}

/** Checks a schema that was not made by {@link defineSchema}. */
export function checkSchema(s: Schema): void {
  defineSchema(s.tables);
}
