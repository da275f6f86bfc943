// Made by `millrace gen ts` from sync.yaml and the tables of the source.
// Do not edit: run it again after a change.
import { defineSchema, integer, real, table, text } from "@millrace/client";

export const schema = defineSchema({
  list_members: table({
    list_id: text, // uuid
    user_id: text,
  }),
  lists: table({
    name: text,
    owner_id: text,
    created_at: text, // timestamp with time zone
  }),
  "my-items": table({
    price: text, // numeric(10,2)
    dear: integer,
    double_weight: real,
    picture: text,
    "size$": integer,
  }),
  todos: table({
    list_id: text, // uuid
    title: text,
    completed: integer, // boolean
    created_by: text,
    created_at: text, // timestamp with time zone
    completed_at: text, // timestamp with time zone
  }),
});
