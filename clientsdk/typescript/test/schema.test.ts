import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { defineSchema, integer, real, SchemaError, table, text } from "../src/schema.js";
import type { Store } from "../src/store/store.js";
import { nextTransaction } from "../src/store/queue.js";
import { tablesOf } from "../src/store/tables.js";
import { applySchema } from "../src/store/views.js";
import { testStore } from "./support/sqlite.js";

const schema = defineSchema({
  todos: table({ title: text, done: integer, cost: real }, { indexes: { by_title: ["title"], newest: ["-done", "id"] } }),
  drafts: table({ body: text }, { localOnly: true }),
  events: table({ what: text }, { insertOnly: true }),
});

let store: Store;
beforeEach(async () => {
  store = await testStore(schema);
});
afterEach(() => store.close());

const run = (sql: string, ...params: (string | number | null)[]): unknown => store.localWrite(() => store.db.run(sql, ...params));
const all = (sql: string): unknown[][] => store.db.all(sql);
const queued = (): unknown => {
  const tx = nextTransaction(store);
  return tx?.ops;
};

describe("views", () => {
  it("read back what was written, cast to the columns' types", () => {
    run("INSERT INTO todos (id, title, done, cost) VALUES ('a', 'Milk', 1, 2)");
    expect(all("SELECT id, title, done, cost, typeof(cost) FROM todos")).toEqual([["a", "Milk", 1, 2, "real"]]);
  });

  it("queue inserts whole, updates as what changed, deletes as such", () => {
    store.localWrite(() => {
      store.db.run("INSERT INTO todos (id, title, done) VALUES ('a', 'Milk', 0)");
      store.db.run("UPDATE todos SET done = 1, title = NULL WHERE id = 'a'");
      store.db.run("DELETE FROM todos WHERE id = 'a'");
      store.db.run("INSERT INTO events (id, what) VALUES ('e', 'clicked')");
    });
    expect(queued()).toEqual([
      { op: "PUT", type: "todos", id: "a", data: { title: "Milk", done: 0 } },
      { op: "PATCH", type: "todos", id: "a", data: { title: null, done: 1 } },
      { op: "DELETE", type: "todos", id: "a" },
      { op: "PUT", type: "events", id: "e", data: { what: "clicked" } },
    ]);
    expect(all("SELECT * FROM events")).toEqual([]);
  });

  it("keep local-only rows out of the queue", () => {
    run("INSERT INTO drafts (id, body) VALUES ('d', 'x')");
    run("UPDATE drafts SET body = 'y'");
    expect(all("SELECT * FROM drafts")).toEqual([["d", "y"]]);
    run("DELETE FROM drafts");
    expect(all("SELECT * FROM drafts")).toEqual([]);
    expect(queued()).toBeUndefined();
  });

  it.each([
    ["INSERT INTO todos (title) VALUES ('x')", "needs a text id"],
    ["INSERT INTO todos (id) VALUES (7)", "needs a text id"],
    ["INSERT INTO todos (id, title) VALUES ('b', x'00')", "cannot hold a BLOB"],
    ["UPDATE todos SET id = 'b'", "the id of a row cannot change"],
    ["INSERT INTO todos (id) VALUES ('a')", "UNIQUE constraint failed"],
  ])("refuse %s", (sql, why) => {
    run("INSERT INTO todos (id) VALUES ('a')");
    expect(() => run(sql)).toThrow(why);
    expect(all("SELECT id FROM todos")).toEqual([["a"]]);
  });

  it("use the schema's indexes", () => {
    const plan = (sql: string): string => all("EXPLAIN QUERY PLAN " + sql).map((r) => String(r[3])).join("\n");
    expect(plan("SELECT * FROM todos WHERE title = 'Milk'")).toContain("mr_t_todos_by_title");
    expect(plan("SELECT * FROM todos ORDER BY done DESC, id")).toContain("mr_t_todos_newest");
    expect(plan("SELECT * FROM todos WHERE id = 'a'")).toContain("_id (id=?)");
  });

  it("take names and texts with quotes in them", async () => {
    const odd = await testStore(defineSchema({ "to do": table({ "it is": text }) }));
    odd.localWrite(() => odd.db.run(`INSERT INTO "to do" (id, "it is") VALUES (?, ?)`, "a'b", `"quoted" 'text' \u{1f6b6}`));
    expect(odd.db.all(`SELECT * FROM "to do"`)).toEqual([["a'b", `"quoted" 'text' \u{1f6b6}`]]);
    odd.close();
  });
});

describe("another schema (S9)", () => {
  it("moves no data: rows of tables that went come back with them", () => {
    run("INSERT INTO todos (id, title, done) VALUES ('a', 'Milk', 1)");
    const version = (): unknown => all("SELECT rowid, id FROM mr_rows_1");
    const before = version();
    applySchema(store, defineSchema({ other: table({ x: text }) }));
    expect(() => all("SELECT * FROM todos")).toThrow("no such table: todos");
    applySchema(store, defineSchema({ todos: table({ done: text, new: integer }) }));
    expect(all("SELECT * FROM todos")).toEqual([["a", "1", null]]);
    expect(version()).toEqual(before);
  });

  it("that is the same makes nothing anew", () => {
    const made = (): unknown => all("SELECT name, rootpage FROM sqlite_schema WHERE name LIKE 'mr\\_t\\_%' ESCAPE '\\' ORDER BY name");
    const before = made();
    applySchema(store, schema);
    expect(made()).toEqual(before);
    // An index that stays keeps its pages.
    applySchema(store, defineSchema({ todos: table({ title: text, more: text }, { indexes: { by_title: ["title"] } }) }));
    expect(made()).toContainEqual((before as unknown[][]).find((r) => r[0] === "mr_t_todos_by_title"));
    expect(all("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'mr\\_t\\_todos\\_newest' ESCAPE '\\'")).toEqual([[0]]);
  });
});

describe("which tables a query reads", () => {
  it.each([
    ["SELECT 1", []],
    ["SELECT * FROM todos", ["todos"]],
    ["SELECT count(*) FROM todos t JOIN drafts d ON d.id = t.id", ["drafts", "todos"]],
    ["SELECT id FROM todos WHERE title = 'x'", ["todos"]],
    ["WITH x AS (SELECT id FROM drafts) SELECT * FROM x", ["drafts"]],
    ["SELECT (SELECT max(done) FROM todos) AS m", ["todos"]],
  ])("%s", (sql, want) => expect(tablesOf(store, sql)).toEqual(want));

  it("follows views of the app", () => {
    store.db.exec("CREATE VIEW open_todos AS SELECT * FROM todos WHERE done = 0");
    expect(tablesOf(store, "SELECT * FROM open_todos")).toEqual(["todos"]);
  });
});

describe("a schema that cannot be", () => {
  it.each([
    [() => defineSchema({ mr_x: table({}) }), "are taken"],
    [() => defineSchema({ "": table({}) }), "is empty"],
    [() => defineSchema({ 'a"b': table({}) }), "has a quote"],
    [() => defineSchema({ ["x".repeat(129)]: table({}) }), "longer than 128 bytes"],
    [() => defineSchema({ a: table({}), A: table({}) }), "differ only in case"],
    [() => defineSchema({ a: table({ ID: text }) }), "has an id column already"],
    [() => defineSchema({ a: table({ x: text, X: text }) }), "is there twice"],
    [() => defineSchema({ a: table({ x: "blob" as "text" }) }), "unknown type"],
    [() => defineSchema({ a: table({ x: text }, { indexes: { i: [] } }) }), "has no columns"],
    [() => defineSchema({ a: table({ x: text }, { indexes: { i: ["y" as "x"] } }) }), 'no column "y"'],
    [() => defineSchema({ a: table({}, { localOnly: true, insertOnly: true }) }), "exclude each other"],
  ])("%#", (make, why) => {
    expect(make).toThrow(SchemaError);
    expect(make).toThrow(why);
  });
});
