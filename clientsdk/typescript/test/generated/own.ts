// How an app adds what is its own to a generated schema; compiled, not run.
import { defineSchema, table, text, type Row } from "@millrace/client";
import { schema as synced } from "./schema.js";

export const schema = defineSchema({
  ...synced.tables,
  todos: table(synced.tables.todos.columns, { indexes: { by_list: ["list_id"] } }),
  drafts: table({ title: text }, { localOnly: true }),
});

export const item: Row<typeof schema, "my-items"> = { id: "1", price: "9.50", dear: 1, double_weight: 0.5, picture: null, size$: 3 };
// @ts-expect-error: completed is a number
export const todo: Partial<Row<typeof schema, "todos">> = { completed: "yes" };
