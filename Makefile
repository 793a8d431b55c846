# Towpath. `make help` lists the targets.

# A newer toolchain with its fixes is used where it can be had; everything also
# passes with GOTOOLCHAIN=local and Go 1.26.
export GOTOOLCHAIN ?= auto
export CGO_ENABLED ?= 1

SHELL := /bin/bash
.DEFAULT_GOAL := help

PROGRAMS := controller node-agent ztunnel waypoint towpath-cni towctl
# Modules of their own, so that their requirements stay out of the main one.
MODULES := conformance/cluster conformance/demo conformance/suite
CLUSTER := conformance/cluster
STATE := /var/lib/towpath-cluster
VERSION ?= v0.1.0

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build every program into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

.PHONY: demo
demo: ## the whole thing on a local cluster: enrol, route, trace, each claim measured (root)
	cd conformance/demo && go run . -repo ../..

.PHONY: demo-break
demo-break: ## after make demo: kill and replace parts of the mesh under load, count what is lost
	cd conformance/demo && go run . -repo ../.. break

.PHONY: check
check: vet unit ## the quick loop: build, vet, staticcheck, unit and race tests

.PHONY: vet
vet:
	go build ./...
	go vet ./...
	go tool staticcheck ./...
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi

.PHONY: unit
unit:
	go test -race ./...

.PHONY: test
test: deps vet ## unit, race and lab tests, none skipped (root), and the tests of the tools
	go run ./conformance/runtests
	for m in $(MODULES); do (cd $$m && go vet ./...) || exit 1; done
	cd conformance/cluster && go test ./...
	cd conformance/demo && go test ./...

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 20s)
	conformance/run-fuzz $${FUZZTIME:-20s}

.PHONY: golden
golden: ## rewrite the golden files
	go test ./internal/gatewayapi/... ./internal/provision/... ./ztunnel/redirect/... ./manifests/... -update

.PHONY: generate
generate: ## generate the protobuf code (needs protoc and its Go plugins)
	go generate ./...

.PHONY: deps
deps: ## install the Debian packages that the lab needs (root)
	conformance/install-packages

.PHONY: cluster-up
cluster-up: ## bring up the local cluster: two nodes, real Kubernetes (root)
	cd $(CLUSTER) && go run ./cmd/cluster up

.PHONY: cluster-down
cluster-down: ## stop the local cluster and keep its files
	cd $(CLUSTER) && go run ./cmd/cluster down

.PHONY: clean-cluster
clean-cluster: ## stop the local cluster and leave nothing behind
	cd $(CLUSTER) && go run ./cmd/cluster clean

.PHONY: install-local
install-local: ## local cluster with this tree's Towpath installed
	cd conformance/demo && go run . -repo ../.. prepare

.PHONY: conformance
conformance: install-local ## the official Gateway API suite on the local cluster, reports to conformance/reports
	cd $(CLUSTER) && go run ./cmd/cluster load-conformance-images
	mkdir -p conformance/reports/v1.6.3
	cd conformance/suite && KUBECONFIG=$(STATE)/kubeconfig go test -count=1 -timeout 40m -run TestConformance . \
	  -args -report-dir $(CURDIR)/conformance/reports/v1.6.3 -towpath-version $(VERSION)

.PHONY: bench
bench: ## requests for each CPU-second through one waypoint, beside HAProxy
	conformance/install-packages haproxy
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/ ./cmd/waypoint ./conformance/bench
	bin/bench -waypoint bin/waypoint

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
