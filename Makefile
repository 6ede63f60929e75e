# The commands of the project. `make help` prints them.
GO       ?= go
VERSION  ?= 0.1.0
TOOLS    := $(CURDIR)/.tools/bin
LDFLAGS  := -s -w -X lyceum/platform/obs.Version=$(VERSION)
export PATH := $(TOOLS):$(PATH)

.PHONY: help run build test test-go test-e2e test-kubernetes chaos lint bench generate ui tools packages

help: ## print this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## build and start the whole product over SQLite, in ./data
	./lyceum serve --data data

build: ## build the binary ./lyceum
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o lyceum ./cmd/lyceum

test: packages tools test-go test-e2e ## install what tests need and run all tests

test-go: ## run the Go tests; PostgreSQL, Redis and an S3 server must be installed
	$(GO) test -timeout 20m $$($(GO) list ./... | grep -v -e '/fleettest$$' -e '/modeltest$$')
	$(GO) test -timeout 20m ./modeltest # alone: it holds that everything ends within a time
	$(GO) test -timeout 20m ./fleettest # alone: it holds how long recovery may take

test-e2e: build ## check the pages; run real Matrix clients and a browser against one process and against a fleet
	cd ui && npm ci --no-audit --no-fund --loglevel=error && npm run check
	cd e2e && npm ci --no-audit --no-fund --loglevel=error && npm test

test-kubernetes: ## apply the rendered manifests to a real control plane (the first run builds it, 10 minutes)
	kubernetestest/run

chaos: packages tools ## run random histories, hold that they miss each cure that is undone, then break a fleet at random, 10 minutes each (LYCEUM_CHAOS, LYCEUM_CHAOS_SEED, LYCEUM_MODEL_SEED)
	LYCEUM_CHAOS=$${LYCEUM_CHAOS:-10m} $(GO) test -count=1 -timeout 120m -v -run TestModel ./modeltest
	LYCEUM_CHAOS=1m $(GO) test -count=1 -timeout 120m -v -run TestUndoneCuresAreFound ./modeltest
	LYCEUM_CHAOS=$${LYCEUM_CHAOS:-10m} $(GO) test -count=1 -timeout 60m -v -run 'TestChaos|TestAClockMayJump|TestKilledAtRandom' ./fleettest

ui: ## build the pages of the browser anew from ui/src
	cd ui && npm ci --no-audit --no-fund --loglevel=error && npm run build

lint: tools ## gofumpt, vet, staticcheck and a tidy go.mod
	@out=$$($(TOOLS)/gofumpt -l .); if [ -n "$$out" ]; then echo "not formatted: $$out"; exit 1; fi
	$(GO) vet ./...
	$(TOOLS)/staticcheck ./...
	$(GO) mod tidy -diff

bench: build ## measure this machine: the figures of manual/performance.md
	$(GO) test -run '^$$' -bench . -benchmem ./matrix/... ./rooms/... ./syncapi/...
	./ops/bench/run

generate: ## print the generated pages of the manual anew
	LYCEUM_GENERATE=1 $(GO) test -count=1 -run Generated ./fleet

tools: $(TOOLS)/gofumpt $(TOOLS)/staticcheck $(TOOLS)/versitygw ## install the tools of lint and tests into .tools

$(TOOLS)/gofumpt:
	GOBIN=$(TOOLS) $(GO) install mvdan.cc/gofumpt@v0.12.0
$(TOOLS)/staticcheck:
	GOBIN=$(TOOLS) $(GO) install honnef.co/go/tools/cmd/staticcheck@v0.8.2
$(TOOLS)/versitygw:
	GOBIN=$(TOOLS) $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0

packages: ## install the packages that tests need (Debian), or say which are missing
	@.ci/packages
