import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { addChecksums, crc32c, fmix32, putChecksum, removeChecksum } from "../src/checksum.js";

interface Vectors {
  readonly crc32c: { readonly text: string; readonly crc: number }[];
  readonly ops: { readonly kind: string; readonly type: string; readonly id: string; readonly subkey: string; readonly data: string; readonly checksum: number }[];
}
const vectors = JSON.parse(readFileSync(new URL("../../../testdata/checksums.json", import.meta.url), "utf8")) as Vectors;
const bytes = (s: string): Uint8Array => new TextEncoder().encode(s);

describe("checksums", () => {
  it("are the shared vectors'", () => {
    for (const v of vectors.crc32c) expect(crc32c(bytes(v.text)), v.text).toBe(v.crc);
    expect(vectors.ops.length).toBeGreaterThan(0);
    for (const v of vectors.ops) {
      expect(v.kind === "PUT" ? putChecksum(v.type, v.id, v.subkey, v.data) : removeChecksum(v.type, v.id, v.subkey), JSON.stringify(v)).toBe(v.checksum);
    }
  });

  it("may be computed in pieces, from any offset", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(100), fc.nat(9), (b, cut, offset) => {
        const at = Math.min(cut, b.length);
        const shifted = new Uint8Array(offset + b.length);
        shifted.set(b, offset);
        const whole = crc32c(b);
        expect(crc32c(b, at, b.length, crc32c(b, 0, at))).toBe(whole);
        expect(crc32c(shifted, offset)).toBe(whole);
      }),
    );
  });

  it("notice data swapped between two rows", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), fc.string({ minLength: 1 }), fc.string(), fc.string(), (a, b, x, y) => {
        fc.pre(a !== b && x !== y);
        const sum = (p: string, q: string): number => addChecksums(putChecksum("t", a, "", p), putChecksum("t", b, "", q));
        expect(sum(x, y)).not.toBe(sum(y, x));
      }),
    );
  });

  it("fmix32 is a permutation's piece: no two of these collide", () => {
    const seen = new Set(Array.from({ length: 10_000 }, (_, i) => fmix32(i)));
    expect(seen.size).toBe(10_000);
  });
});
