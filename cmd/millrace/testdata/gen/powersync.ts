// Made by `millrace gen powersync-ts` from sync.yaml and the tables of the source.
// Do not edit: run it again after a change.
import { column, Schema, Table } from "@powersync/node";

export const AppSchema = new Schema({
  list_members: new Table({
    list_id: column.text, // uuid
    user_id: column.text,
  }),
  lists: new Table({
    name: column.text,
    owner_id: column.text,
    created_at: column.text, // timestamp with time zone
  }),
  "my-items": new Table({
    price: column.text, // numeric(10,2)
    dear: column.integer,
    double_weight: column.real,
    picture: column.text,
    "size$": column.integer,
  }),
  todos: new Table({
    list_id: column.text, // uuid
    title: column.text,
    completed: column.integer, // boolean
    created_by: column.text,
    created_at: column.text, // timestamp with time zone
    completed_at: column.text, // timestamp with time zone
  }),
});

export type Database = (typeof AppSchema)["types"];
