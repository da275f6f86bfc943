import { expectTypeOf, it } from "vitest";
import type { Millrace, Row, Watch } from "../src/index.js";
import { defineSchema, integer, real, table, text } from "../src/index.js";

const schema = defineSchema({
  todos: table({ title: text, done: integer, cost: real }, { indexes: { by_title: ["title", "-done", "id"] } }),
  drafts: table({ body: text }, { localOnly: true }),
});

it("rows have the columns' types", () => {
  expectTypeOf<Row<typeof schema, "todos">>().toEqualTypeOf<{ id: string; title: string | null; done: number | null; cost: number | null }>();
  expectTypeOf<Row<typeof schema, "drafts">>().toEqualTypeOf<{ id: string; body: string | null }>();
  // @ts-expect-error there is no such table
  type _No = Row<typeof schema, "nothing">;
});

it("indexes name columns that exist", () => {
  // @ts-expect-error there is no column "titel"
  const wrong = (): unknown => table({ title: text }, { indexes: { by_title: ["titel"] } });
  expectTypeOf(wrong).toBeFunction();
  // @ts-expect-error there is no such type
  const blob = (): unknown => table({ title: "blob" });
  expectTypeOf(blob).toBeFunction();
});

it("queries give what is asked of them", () => {
  type Db = Millrace<(typeof schema)["tables"]>;
  expectTypeOf<Db>().toExtend<Millrace>();
  type Todo = Row<typeof schema, "todos">;
  const all = (db: Db) => db.getAll<Todo>("SELECT * FROM todos");
  const one = (db: Db) => db.get<{ n: number }>("SELECT count(*) AS n FROM todos");
  const live = (db: Db) => db.watch<Todo>("SELECT * FROM todos");
  expectTypeOf(all).returns.resolves.toEqualTypeOf<Todo[]>();
  expectTypeOf(one).returns.resolves.toEqualTypeOf<{ n: number } | null>();
  expectTypeOf(live).returns.toEqualTypeOf<Watch<Todo>>();
  const bound = (db: Db) => db.execute("…", [1, "a", true, 1n, null, new Uint8Array()]);
  expectTypeOf(bound).toBeFunction();
  // @ts-expect-error dates cannot be bound
  const date = (db: Db) => db.execute("…", [new Date()]);
  expectTypeOf(date).toBeFunction();
});
