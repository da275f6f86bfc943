import sqlite3InitModule from "@sqlite.org/sqlite-wasm";
import type { Sqlite3Static } from "@sqlite.org/sqlite-wasm";
import { Connection } from "../../src/sqlite/connection.js";
import type { Schema } from "../../src/schema.js";
import { Store } from "../../src/store/store.js";
import { applySchema } from "../../src/store/views.js";

let module: Promise<Sqlite3Static> | undefined;

/** A connection to a database in memory. */
export async function memory(): Promise<Connection> {
  module ??= sqlite3InitModule();
  const sqlite3 = await module;
  const db = new sqlite3.oo1.DB(":memory:", "c");
  return new Connection(sqlite3, db.pointer as number);
}

export async function testStore(schema: Schema, clock: () => number = () => 1): Promise<Store> {
  const store = new Store(await memory(), clock, () => "c");
  applySchema(store, schema);
  return store;
}

/** What readers see: rows by type and id, as parsed JSON. */
export function shown(store: Store): Record<string, Record<string, unknown>> {
  const out: Record<string, Record<string, unknown>> = {};
  for (const [type, n] of store.rowTypes()) {
    for (const [id, data] of store.db.all(`SELECT id, data FROM mr_rows_${n} WHERE wave NOT IN (SELECT wave FROM mr_waves)`)) {
      const rows = (out[type] ??= {});
      if (String(id) in rows) throw new Error(`${type} ${String(id)} is shown twice`);
      rows[String(id)] = JSON.parse(String(data));
    }
  }
  return out;
}
