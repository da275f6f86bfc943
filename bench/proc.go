package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

var selfPID = os.Getpid()

// usage is CPU time by process.
type usage map[int]time.Duration

func (u usage) of(pid int) time.Duration { return u[pid] }

// clockTick is the unit of /proc/*/stat: 1/100 s on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// cpu reads user and system time of the processes; 0 where there is no /proc.
func cpu(pids ...int) usage {
	u := usage{}
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The command may hold spaces and parentheses; the fields follow the last.
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if len(fields) < 13 {
			continue
		}
		user, err1 := strconv.ParseInt(string(fields[11]), 10, 64)
		system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
		if err1 == nil && err2 == nil {
			u[pid] = time.Duration(user+system) * clockTick
		}
	}
	return u
}

// peakMemory is the most resident memory a process has had, in bytes.
func peakMemory(pid int) int64 { return memory(pid, "VmHWM:") }

// resetPeak makes the peak what is resident now. Where it fails, which old
// kernels do, peaks are those since the process began.
func resetPeak(pid int) { _ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) }

// residentMemory is what it has now.
func residentMemory(pid int) int64 { return memory(pid, "VmRSS:") }

func memory(pid int, field string) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	return 0
}

func machine() string {
	model := runtime.GOARCH
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
				model = strings.TrimSpace(v)
				break
			}
		}
	}
	memory := ""
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		if fields := strings.Fields(string(b)); len(fields) > 1 {
			if kb, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				memory = fmt.Sprintf(", %d GiB", (kb+1<<19)>>20)
			}
		}
	}
	load := ""
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		load = ", load average at start " + strings.Join(strings.Fields(string(b))[:1], "")
	}
	return fmt.Sprintf("%s, %d CPUs%s, %s%s", model, runtime.NumCPU(), memory, runtime.GOOS, load)
}
