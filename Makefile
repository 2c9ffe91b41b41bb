# Every target works on a fresh clone; what a target needs beyond Go it installs or names.

BUF := npx --yes @bufbuild/buf@1.75.0
FUZZTIME ?= 3s

.PHONY: build test race fuzz lint sim e2e k8s check generate

build:
	go build ./...

test:
	go test ./...
	go -C test/interop/mlsclient test ./...

race:
	go test -race ./...

# fuzz gives every fuzz target of every package FUZZTIME.
fuzz:
	./.ci/fuzz $(FUZZTIME)

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo 'these files are not gofmt-ed'; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go mod tidy -diff

# sim runs the seeded random histories and faults alone, e2e the whole system.
sim:
	go test -count=1 -run 'Scenario|Faults|KilledAnywhere|OneOrder|Kill9' ./pkg/mls ./pkg/client ./services/... ./test/e2e
	go test -count=1 -timeout 30m ./test/fault -rounds 2

e2e:
	go test -count=1 ./test/e2e/... ./test/privacy/... ./test/interop/...
	go run ./cmd/mimimi demo -json

# k8s proves deploy/k8s on a cluster: KUBECONFIG's, or one that it starts (as root, with k8s-node).
k8s:
	./deploy/k8s/test/run

check:
	./.ci/run

# generate rewrites the Go code made from .proto files (needs Node's npx) and the documents made from data.
generate:
	$(BUF) generate
	cd test/interop/mlsclient && $(BUF) generate
	go test ./test/layout -run "^TestRFC9420Coverage$$" -update
	go test ./cmd/mimimi -run "^TestMetricsDocument$$" -update
