import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Connection } from "../src/sqlite/connection.js";
import { SqliteError } from "../src/sqlite/connection.js";
import { memory } from "./support/sqlite.js";

let db: Connection;
beforeAll(async () => {
  db = await memory();
});
afterAll(() => db.close());

it("reads back every value it can bind", () => {
  const value = fc.oneof(
    fc.string({ unit: "binary", maxLength: 200 }), fc.maxSafeInteger(), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
    fc.double({ noNaN: true }), fc.constant(null), fc.uint8Array(), fc.boolean(),
  );
  fc.assert(
    fc.property(value, (v) => {
      const got = db.row("SELECT ?", v)?.[0];
      const want = typeof v === "boolean" ? Number(v) : typeof v === "bigint" && BigInt(Number(v)) === v && Number.isSafeInteger(Number(v)) ? Number(v) : v;
      expect(got).toEqual(want);
    }),
  );
});

it("takes texts longer than its scratch area, in the middle of others", () => {
  const long = "ü".repeat(3_000_000);
  expect(db.row("SELECT ?, length(?), ?", "a", long, "b")).toEqual(["a", 3_000_000, "b"]);
});

it.each([
  ["SELECT ?", [], "0 parameters for 1 places"],
  ["SELECT 1; SELECT 2", [], "more than one statement"],
  ["-- nothing", [], "there is no statement"],
  ["SELECT * FROM absent", [], "no such table"],
  ["CREATE TABLE x (a)", [], "this statement writes"],
  ["BEGIN", [], "transactions are begun"],
  ["SELECT ?", [2n ** 63n], "does not fit 64 bits"],
])("refuses %s", (sql, params, why) => {
  expect(() => db.query(sql, params, true, 10)).toThrow(SqliteError);
  expect(() => db.query(sql, params, true, 10)).toThrow(why);
  expect(db.autocommit).toBe(true);
});

it("bounds the rows of a result", () => {
  const many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
  expect(() => db.query(many, [], true, 100)).toThrow("more than 100 rows");
});

it("gives rows by column", () => {
  expect(db.query("SELECT 1 AS a, 'x' AS b UNION ALL SELECT 2, NULL -- trailing words", [], true, 10)).toEqual({ names: ["a", "b"], values: [[1, 2], ["x", null]], rows: 2, changes: 0 });
});
