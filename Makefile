# `make` lists the targets.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)

# How long `go test` may take for one package.
TIMEOUT ?= 25m
# Packages tested at a time: most start PostgreSQL servers of their own.
PARALLEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help build demo test bench check fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: go
go:
	@command -v $(GO) >/dev/null || { echo "Go 1.26 or newer is needed: see https://go.dev/dl/" >&2; exit 1; }

build: go ## build bin/millrace, one static binary
	@mkdir -p bin
	@echo "Building bin/millrace $(VERSION) (the first time takes a minute) ..."
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/millrace ./cmd/millrace

demo: ## install what is missing, build, and run the to-do demo until Ctrl-C
	@.ci/need postgres optional
	@$(MAKE) --no-print-directory build
	@exec bin/millrace dev $(ARGS)

test: go ## install what is missing and run every test, with the race detector
	@.ci/need cc
	@.ci/need postgres
	@.ci/need npm
	$(GO) test -race -timeout $(TIMEOUT) -p $(PARALLEL) $(ARGS) ./...

bench: go ## rows per second from the slot to a durable checkpoint, beside a reader that discards
	@.ci/need postgres
	$(GO) run ./bench $(ARGS)

check: go ## formatting and vet
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "gofmt these files (make fmt):"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...

fmt: ## format the Go files
	gofmt -w $$(git ls-files '*.go')

clean: ## remove what was built (not the demo's data in .millrace)
	rm -rf bin
