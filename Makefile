# `make` lists the targets.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# How long `go test` may take for one package.
TIMEOUT ?= 60m
# Packages tested at a time: most start PostgreSQL servers of their own.
PARALLEL ?= 2
# How long each fuzz target runs in `make fuzz`.
FUZZTIME ?= 1m

.DEFAULT_GOAL := help
.PHONY: help build app demo test soak bench bench-relay bench-memory bench-deploys bench-sql bench-truncate bench-browser check fmt fuzz clean screenshots

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: go
go:
	@command -v $(GO) >/dev/null || { echo "Go 1.26 or newer is needed: see https://go.dev/dl/" >&2; exit 1; }

build: go ## build bin/millrace, one static binary
	@if .ci/need node optional; then $(MAKE) --no-print-directory app; fi
	@mkdir -p bin
	@echo "Building bin/millrace $(VERSION) (the first time takes a minute) ..."
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/millrace ./cmd/millrace

# The app is built from files of its own and the browser SDK, each with the
# packages that its lock file pins. A stamp is newer than what it was made from.
SDK := clientsdk/typescript
APP := demo/app

$(SDK)/node_modules/.package-lock.json $(APP)/node_modules/.package-lock.json bench/browser/node_modules/.package-lock.json: %/node_modules/.package-lock.json: %/package-lock.json
	@echo "Installing the npm packages of $* ..."
	@cd $* && npm ci --ignore-scripts --loglevel=error && touch node_modules/.package-lock.json

$(SDK)/dist/index.js: $(SDK)/node_modules/.package-lock.json $(SDK)/package.json $(SDK)/build.mjs $(wildcard $(SDK)/tsconfig*.json) $(shell find $(SDK)/src -name '*.ts')
	@cd $(SDK) && npm run --silent build >/dev/null && touch dist/index.js

demo/web/app/index.html: $(SDK)/dist/index.js $(APP)/node_modules/.package-lock.json $(APP)/package.json $(APP)/index.html $(APP)/vite.config.ts $(APP)/tsconfig.json $(shell find $(APP)/src -type f)
	@echo "Building the demo's app ..."
	@cd $(APP) && npm run --silent build -- --logLevel warn && touch ../web/app/index.html

app: ## build the demo's app in the browser (Node)
	@.ci/need node
	@$(MAKE) -s --no-print-directory demo/web/app/index.html

demo: ## install what is missing, build, and run the to-do demo until Ctrl-C
	@.ci/need postgres optional
	@$(MAKE) --no-print-directory build
	@exec bin/millrace dev $(ARGS)

SOAK ?= 2h

soak: go ## random workload on two shards under faults of every kind, new seeds for SOAK=2h
	@.ci/need postgres
	MILLRACE_SOAK_FOR=$(SOAK) $(GO) test -race -timeout 0 -count=1 -run '^TestSoak$$' -v ./decoder $(ARGS)

test: go ## install what is missing and run every test, with the race detector
	@.ci/need cc
	@.ci/need postgres
	@.ci/need node
	@.ci/need chromium
	@$(MAKE) --no-print-directory app
	@if [ -z "$(ARGS)" ]; then $(MAKE) --no-print-directory test-sdk; fi
	E2E_BROWSER=1 $(GO) test -race -timeout $(TIMEOUT) -p $(PARALLEL) $(ARGS) ./...
	$(GO) test -run '^TestModel$$' ./clientsdk
	@if [ -z "$(ARGS)" ] && [ "$$(uname -sm)" = "Linux x86_64" ]; then $(MAKE) --no-print-directory test-pg-matrix MAJORS=18; fi

fuzz: go ## run every fuzz target for FUZZTIME (1m) each
	@for dir in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$dir/*_test.go); do \
			echo "$$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir || exit 1; \
		done; \
	done

.PHONY: test-sdk
test-sdk: $(SDK)/dist/index.js
	cd $(SDK) && npm test --silent && npm run --silent test:browser

bench: go ## rows per second from the slot to a durable checkpoint, beside a reader that discards
	@.ci/need postgres
	$(GO) run ./bench $(ARGS)

bench-relay: go ## one process with 10,000 clients: memory by transport, fan-out, catch-up
	@.ci/need postgres
	$(GO) run ./bench -only relay -copied 1000 $(ARGS)

# Needs some 20 GB of disk at full size.
bench-memory: go ## resident memory of decoder and relay: 5,000,000 rows in a transaction, 20,000,000 copied
	@.ci/need postgres
	$(GO) run ./bench -only memory -copied 20000000 -transaction 5000000 $(ARGS)

bench-deploys: go ## one of ten definitions changed, over 2,000,000 rows
	@.ci/need postgres
	$(GO) run ./bench -only deploys -copied 2000000 $(ARGS)

bench-sql: go ## times of the sidecar's views and functions (MILLRACE_BENCH_OPS=1000000)
	@$(GO) test ./store -run '^$$' -bench Surface -benchtime 5x -timeout 2h $(ARGS)

bench-truncate: ## a TRUNCATE of small tables, through memory and set-based: time, WAL, oids
	@$(GO) test ./store -run '^$$' -bench Truncate -benchtime 50x $(ARGS)

bench-browser: build ## a first sync in Chromium, beside the official web client
	@.ci/need postgres
	@.ci/need node
	@.ci/need chromium
	@$(MAKE) -s --no-print-directory $(SDK)/dist/index.js bench/browser/node_modules/.package-lock.json
	@node bench/browser/run.mjs $(ARGS)

screenshots: build ## make docs/images anew
	@.ci/need chromium
	@node e2e/browser/screenshots.mjs $(ARGS)

check: go ## formatting and vet
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt these files (make fmt):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...

fmt: ## format the Go files
	gofmt -w $$(git ls-files '*.go')

clean: ## remove what was built (not the demo's data in .millrace)
	rm -rf bin demo/web/app $(SDK)/dist

# Tests of everything that depends on the server's major, as source and as sidecar.
MAJORS ?= 14 15 16 17 18
.PHONY: test-pg-matrix
test-pg-matrix: go ## tests on PostgreSQL 14 to 18, as source and sidecar (MAJORS="14 18")
	@.ci/need node
	@for major in $(MAJORS); do \
		echo "PostgreSQL $$major"; \
		bin=$$(.ci/postgres $$major) || exit 1; \
		MILLRACE_PG_BIN=$$bin $(GO) test -timeout $(TIMEOUT) -p $(PARALLEL) ./decoder/catalog/... ./decoder/walstream ./migrations ./sql || exit 1; \
		MILLRACE_PG_BIN=$$bin $(GO) test -timeout $(TIMEOUT) ./decoder -run '^Test(CopyThenStream|TwoSources|RA[0-9]+|SourceRestart|Fuse|Orphan|SlotReport|FailoverSlot)' -skip 'Model|RA29|RA12_M|RA47_RA48|RA49|RA56' || exit 1; \
		MILLRACE_PG_BIN=$$bin $(GO) test -timeout $(TIMEOUT) ./store -run '^Test(State|Deploy|RA[0-9]+|SA(01|06|1[0-9]|35)|Bucket|Documented|Model)' || exit 1; \
	done
