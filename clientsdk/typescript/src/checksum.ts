/**
 * The checksum of an op: fmix32(CRC-32C(x)), with x = "P" type 0 id 0 subkey 0
 * data for a PUT and "R" type 0 id 0 subkey for a REMOVE, all UTF-8. The same
 * function as `checksum.go`; vectors of both are in `testdata/checksums.json`.
 */

// Eight tables, so that eight bytes are taken in one step.
const tables: readonly Uint32Array[] = (() => {
  const out = Array.from({ length: 8 }, () => new Uint32Array(256));
  const first = out[0] as Uint32Array;
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    first[n] = c >>> 0;
  }
  for (let n = 0; n < 256; n++) {
    let c = first[n] as number;
    for (let k = 1; k < 8; k++) {
      c = (first[c & 0xff] as number) ^ (c >>> 8);
      (out[k] as Uint32Array)[n] = c >>> 0;
    }
  }
  return out;
})();
const [t0, t1, t2, t3, t4, t5, t6, t7] = tables as [Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array];

/** CRC-32C of bytes[from, to), continued from an earlier one. */
export function crc32c(bytes: Uint8Array, from = 0, to = bytes.length, start = 0): number {
  let c = ~start;
  let i = from;
  for (const end = to - 7; i < end; i += 8) {
    c ^= (bytes[i] as number) | ((bytes[i + 1] as number) << 8) | ((bytes[i + 2] as number) << 16) | ((bytes[i + 3] as number) << 24);
    c =
      (t7[c & 0xff] as number) ^
      (t6[(c >>> 8) & 0xff] as number) ^
      (t5[(c >>> 16) & 0xff] as number) ^
      (t4[c >>> 24] as number) ^
      (t3[bytes[i + 4] as number] as number) ^
      (t2[bytes[i + 5] as number] as number) ^
      (t1[bytes[i + 6] as number] as number) ^
      (t0[bytes[i + 7] as number] as number);
  }
  for (; i < to; i++) c = (t0[(c ^ (bytes[i] as number)) & 0xff] as number) ^ (c >>> 8);
  return ~c >>> 0;
}

/** MurmurHash3's 32-bit finaliser: without it sums of CRCs would not notice data swapped between rows. */
export function fmix32(h: number): number {
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  h ^= h >>> 16;
  return h >>> 0;
}

/** The wrapping sum of two checksums. */
export const addChecksums = (a: number, b: number): number => (a + b) >>> 0;

const encoder = new TextEncoder();

/** Checksum of a PUT. The ingest computes the same over bytes it has encoded already. */
export const putChecksum = (type: string, id: string, subkey: string, data: string): number =>
  fmix32(crc32c(encoder.encode(`P${type}\0${id}\0${subkey}\0${data}`)));

/** Checksum of a REMOVE. */
export const removeChecksum = (type: string, id: string, subkey: string): number => fmix32(crc32c(encoder.encode(`R${type}\0${id}\0${subkey}`)));
