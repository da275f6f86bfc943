import fc from "fast-check";
import { expect, it } from "vitest";
import { BUCKETS, Model, modelSchema } from "./support/model.js";
import { testStore } from "./support/sqlite.js";

const HISTORIES = Number(process.env.MILLRACE_HISTORIES ?? 2000);

type Action = (m: Model) => void;

const bucket = fc.constantFrom(...BUCKETS);
const line: fc.Arbitrary<Action> = fc
  .record({
    move: fc.nat(4).map((n) => n === 0), whole: fc.nat(3).map((n) => n === 0), page: fc.integer({ min: 1, max: 4 }), partials: fc.boolean(),
    damage: fc.nat(12).map((n) => n === 0), where: fc.nat(10),
  })
  .map((how) => (m) => m.line(how));
// Few rows, so that histories of one row are long.
const change = fc.record({
  bucket, type: fc.constantFrom("a", "a", "b", "hidden"), id: fc.constantFrom("r0", "r0", "r1", "r2"), subkey: fc.constantFrom("", "", "", "k1"), remove: fc.nat(2).map((n) => n === 0),
});
const write = fc.record({ type: fc.constantFrom("a", "b"), id: fc.constantFrom("r0", "r1", "new"), remove: fc.boolean() });

const action: fc.Arbitrary<Action> = fc.oneof(
  { weight: 2, arbitrary: fc.array(change, { minLength: 1, maxLength: 6 }).map((c): Action => (m) => m.source(c)) },
  { weight: 2, arbitrary: fc.tuple(bucket, fc.nat(3).map((n) => n > 0)).map(([b, clear]): Action => (m) => m.compact(b, clear)) },
  { weight: 1, arbitrary: bucket.map((b): Action => (m) => m.grant(b)) },
  { weight: 3, arbitrary: line },
  { weight: 3, arbitrary: fc.array(line, { minLength: 1, maxLength: 8 }).map((lines): Action => (m) => lines.forEach((l) => l(m))) },
  { weight: 1, arbitrary: fc.boolean().map((lost): Action => (m) => m.reconnect(lost)) },
  { weight: 1, arbitrary: fc.constant<Action>((m) => m.restart()) },
  { weight: 2, arbitrary: fc.tuple(fc.array(write, { minLength: 1, maxLength: 3 }), fc.nat(5)).map(([w, n]): Action => (m) => m.write(w, n === 0)) },
  { weight: 1, arbitrary: fc.nat(3).map((n): Action => (m) => m.upload(n === 0)) },
  { weight: 1, arbitrary: fc.constant<Action>((m) => m.answer()) },
  { weight: 1, arbitrary: fc.constant<Action>((m) => m.replicate()) },
  {
    weight: 1,
    arbitrary: fc.tuple(fc.array(change, { maxLength: 3 }), fc.array(line, { maxLength: 4 })).map(([c, lines]): Action => (m) => m.lateAnswer(() => {
      m.source(c);
      lines.forEach((l) => l(m));
    })),
  },
  { weight: 1, arbitrary: fc.nat().map((n): Action => (m) => m.rot(n)) },
);

it(`what readers see is the fold of what was published, on ${HISTORIES} histories`, async () => {
  const store = await testStore(modelSchema);
  let histories = 0;
  fc.assert(
    fc.property(fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }), fc.boolean(), fc.boolean(), fc.array(action, { minLength: 10, maxLength: 60, size: "max" }), (granted, verify, flushEvery, actions) => {
      histories++;
      const m = new Model(store, granted, verify, flushEvery);
      for (const a of actions) {
        a(m);
        m.check();
      }
      m.settle();
    }),
    { numRuns: HISTORIES, endOnFailure: false },
  );
  expect(histories).toBeGreaterThanOrEqual(HISTORIES);
  store.close();
}, 300_000);
