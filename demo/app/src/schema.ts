import type { Row } from "@millrace/client";
import { defineSchema, integer, table, text } from "@millrace/client";

/** The app's view of what the sync rules give a user. */
export const schema = defineSchema({
  lists: table({ name: text, owner_id: text, created_at: text }),
  todos: table({ list_id: text, title: text, completed: integer, created_by: text, created_at: text, completed_at: text }, { indexes: { by_list: ["list_id"] } }),
  list_members: table({ list_id: text, user_id: text }, { indexes: { by_list: ["list_id"] } }),
});

export type List = Row<typeof schema, "lists">;
export type Todo = Row<typeof schema, "todos">;
