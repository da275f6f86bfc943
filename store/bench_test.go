package store

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace/millrace"
)

// benchRows is the number of rows of a flush.
const benchRows = 5_000

// ticksPerSecond is the unit of /proc/<pid>/stat on Linux.
const ticksPerSecond = 100

// backendCPU is the processor time a server process has used.
func backendCPU(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / ticksPerSecond
}

func ownCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// measure runs flush b.N times and reports rows per second and processor time
// per row of this process and the writing backend. What prepare does does not
// count.
func measure[T any](b *testing.B, x *world, prepare func(i int) T, flush func(T)) {
	pid := int(x.w.pg.PID())
	backend := backendCPU(pid)
	var own, elapsed time.Duration
	for i := range b.N {
		in := prepare(i)
		runtime.GC()
		cpu, start := ownCPU(), time.Now()
		flush(in)
		elapsed += time.Since(start)
		own += ownCPU() - cpu
	}
	rows := float64(b.N * benchRows)
	b.ReportMetric(rows/elapsed.Seconds(), "rows/s")
	b.ReportMetric(float64(own.Nanoseconds())/rows, "go-ns/row")
	b.ReportMetric(float64((backendCPU(pid)-backend).Nanoseconds())/rows, "backend-ns/row")
	b.ReportMetric(0, "ns/op")
}

// benchChange is a to-do row in one of a thousand buckets, with ~310 bytes of
// data.
func (x *world) benchChange(row, bucket int) millrace.Change {
	key := fmt.Sprintf("%08d-0000-4000-8000-%012d", row, row)
	data := fmt.Sprintf(`{"id":"%s","list_id":"00000000-0000-0000-0000-%012d","created_at":"2024-04-19 10:22:33.123456Z","completed_at":null,"description":"task number %d %s","completed":%d,"created_by":"%s","priority":%d}`,
		key, bucket, row, strings.Repeat("x", 48), row&1, key, row%5)
	c := x.upsert(1, key, x.out(1, fmt.Sprintf(`by_list["00000000-0000-0000-0000-%012d"]`, bucket), "todos", key, data))
	c.Scope = x.benchScope()
	return c
}

// benchScope is a table that feeds one bucket definition.
func (x *world) benchScope() *millrace.Scope {
	if x.oneBucket == nil {
		x.oneBucket = &millrace.Scope{Table: x.tables[1].ID, Buckets: x.scopes[1].Buckets[1:]}
	}
	return x.oneBucket
}

func (x *world) benchFlush(b *testing.B, changes []millrace.Change) {
	must(b, x.w.Apply(b.Context(), changes))
	x.commit(b, nil)
}

// benchBatch is the i-th batch, with its rows shifted by some buckets.
func (x *world) benchBatch(i, shift int) []millrace.Change {
	changes := make([]millrace.Change, benchRows)
	for j := range changes {
		changes[j] = x.benchChange(i*benchRows+j, (j+shift)%1000)
	}
	return changes
}

// BenchmarkInsert: rows that are new, in old buckets, looked for or known to be
// new.
func BenchmarkInsert(b *testing.B) {
	for _, isNew := range []bool{false, true} {
		b.Run(fmt.Sprintf("new=%t", isNew), func(b *testing.B) {
			x := newWorld(b, Options{})
			x.benchFlush(b, x.benchBatch(0, 0))
			measure(b, x, func(i int) []millrace.Change {
				changes := x.benchBatch(i+1, 0)
				for j := range changes {
					changes[j].New = isNew
				}
				return changes
			}, func(c []millrace.Change) { x.benchFlush(b, c) })
		})
	}
}

// BenchmarkUpdate: rows that stay in their bucket, their states cached or not.
func BenchmarkUpdate(b *testing.B) {
	for _, cache := range []int{DefaultCacheBytes, 1000} {
		b.Run(fmt.Sprintf("cache=%d", cache), func(b *testing.B) {
			x := newWorld(b, Options{CacheBytes: cache})
			for i := range 10 {
				x.benchFlush(b, x.benchBatch(i, 0))
			}
			measure(b, x, func(i int) []millrace.Change { return x.benchBatch(i%10, 0) }, func(c []millrace.Change) { x.benchFlush(b, c) })
		})
	}
}

// BenchmarkMove: rows that go to another bucket: two ops and a row state each.
func BenchmarkMove(b *testing.B) {
	x := newWorld(b, Options{})
	for i := range 10 {
		x.benchFlush(b, x.benchBatch(i, 0))
	}
	measure(b, x, func(i int) []millrace.Change { return x.benchBatch(i%10, i/10+1) }, func(c []millrace.Change) { x.benchFlush(b, c) })
}

// BenchmarkOneRow: a flush for each row, the latency of an idle sidecar.
func BenchmarkOneRow(b *testing.B) {
	x := newWorld(b, Options{})
	changes := make([]millrace.Change, b.N)
	for i := range changes {
		changes[i] = x.benchChange(i, i%1000)
	}
	b.ResetTimer()
	for i := range changes {
		x.benchFlush(b, changes[i:i+1])
	}
}

// BenchmarkHeap is the ceiling: COPY of the same ops into a heap without index
// or constraint.
func BenchmarkHeap(b *testing.B) {
	x := newWorld(b, Options{})
	exec(b, x.conn, `CREATE TABLE public.heap (bucket int8, op_id int8, definition int4, checksum int4, kind int2, type text, row_id text, subkey text, data text)`)
	ops := func(i int) []byte {
		var c copyBuffer
		for j, change := range x.benchBatch(i, 0) {
			o := change.Outputs[0]
			c.row(9)
			c.int64(int64(j % 1000))
			c.int64(int64(i*benchRows + j))
			c.int32(2)
			c.int32(int32(j))
			c.int16(1)
			c.text(o.Type)
			c.text(o.RowID)
			c.null()
			c.text(o.Data)
		}
		return c.finish()
	}
	measure(b, x, ops, func(c []byte) {
		if _, err := x.w.pg.CopyFrom(b.Context(), bytes.NewReader(c), "COPY public.heap FROM STDIN (FORMAT binary)"); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkOps is the op log alone: the same COPY into a partition with its key
// and constraint.
func BenchmarkOps(b *testing.B) {
	x := newWorld(b, Options{})
	ops := func(i int) *copyBuffer {
		var c copyBuffer
		for j, change := range x.benchBatch(i, 0) {
			o := change.Outputs[0]
			c.row(9)
			c.int64(int64(j % 1000))
			c.int64(int64(i*benchRows + j + 1))
			c.int32(int32(o.Definition))
			c.int32(int32(j))
			c.int16(1)
			c.text(o.Type)
			c.text(o.RowID)
			c.null()
			c.text(o.Data)
		}
		return &c
	}
	measure(b, x, ops, func(c *copyBuffer) {
		must(b, x.w.copyIn(b.Context(), c, "ops (bucket, op_id, definition, checksum, kind, type, row_id, subkey, data)"))
	})
}
