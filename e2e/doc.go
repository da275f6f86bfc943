// Package e2e holds the end-to-end tests: real source and sidecar servers, the
// real binary as a process, and an oracle that asks the source, in plain SQL,
// what the sync rules should have produced.
//
// The oracle shares no code with the product: expected rows come from
// hand-written queries, checksums are computed again from their definition,
// and what the sidecar says is read through its public SQL surface.
//
// Environment:
//
//	E2E_SEEDS=20        seeds of the kill -9 runs
//	E2E_SEED=1          first seed
//	E2E_COPY_SEEDS=2    seeds of kill -9 during the initial copy
//	E2E_CLIENT_SEEDS=20 seeds of the kill -9 runs with devices
//	E2E_CLIENT_SEED=1   first of them
//	E2E_CLIENT_LOAD=1500ms length of the load of each
//	E2E_RULES_CASES=225 generated definitions, 45 for each seed
//	E2E_RULES_SEED=1    first of those seeds
//	E2E_SWARM=6s        length of the load of 200 clients
//	E2E_BIG_ROWS=200000 rows of the large transactions
//	E2E_DEPLOYS=4       deploys of the kill -9 run of deploys
//	E2E_LOAD=2s         length of the load of each seed
//	E2E_BINARY=PATH     use this binary instead of building one
//	E2E_RACE=1          build the binary with the race detector
//	E2E_KEEP_LOGS=DIR   write every process's log there
//	E2E_BROWSER=1       fail where the browser tests would be skipped
//	MILLRACE_CHROMIUM=PATH  use this browser
package e2e
