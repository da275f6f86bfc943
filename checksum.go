package millrace

import "hash/crc32"

// Checksum is the checksum of an op, or the wrapping sum over a bucket's ops
// since the last CLEAR (I5). SQL stores it as int4 with the same bits.
type Checksum uint32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// PutChecksum is the checksum of a PUT: fmix32(CRC-32C(x)) with
// x = "P" ‖ type ‖ 0 ‖ id ‖ 0 ‖ subkey ‖ 0 ‖ data, all UTF-8, an absent subkey
// empty. fmix32 is MurmurHash3's 32-bit finaliser; without it, sums of CRCs
// would not notice data swapped between two rows.
func PutChecksum[T ~string | ~[]byte](rowType, id, subkey string, data T) Checksum {
	var buf [256]byte
	x := appendIdentity(append(buf[:0], 'P'), rowType, id, subkey)
	x = append(x, 0)
	crc := crc32.Update(0, castagnoli, x)
	return Checksum(fmix32(crc32.Update(crc, castagnoli, []byte(data))))
}

// RemoveChecksum is the checksum of a REMOVE: fmix32(CRC-32C(x)) with
// x = "R" ‖ type ‖ 0 ‖ id ‖ 0 ‖ subkey.
func RemoveChecksum(rowType, id, subkey string) Checksum {
	var buf [256]byte
	x := appendIdentity(append(buf[:0], 'R'), rowType, id, subkey)
	return Checksum(fmix32(crc32.Update(0, castagnoli, x)))
}

func appendIdentity(b []byte, rowType, id, subkey string) []byte {
	b = append(append(b, rowType...), 0)
	b = append(append(b, id...), 0)
	return append(b, subkey...)
}

func fmix32(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	h ^= h >> 16
	return h
}
