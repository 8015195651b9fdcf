# make up     boots a node on this machine and runs a pod; make down leaves nothing behind
# make test   everything that CI runs
# make torture  the store under kill -9, power cuts and endless updates, long (make test has a short version)
# make package  a Debian package in target/package: binary, units, man pages, defaults
# make corpus  every recorded pod behaviour on containerd 1.6 too (make test has a few), and the long fault tests
# make deps   what the tests need, installed (Debian)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where `make up` keeps its node; everything in it goes with `make down`.
SKIFF_DATA ?= /var/lib/skiff
export SKIFF_DATA

.PHONY: help build up down package test deps lint unit e2e bench torture corpus

help:
	@sed -n 's/^# //p' Makefile

build:
	tests/deps.sh build
	cargo build --release --locked --bin skiff

up: build
	tests/deps.sh node kubectl
	tests/up.sh

down:
	tests/down.sh

package: build
	node-config/debian/build.sh target/release/skiff target/package

deps:
	tests/deps.sh build node kubectl tests clients

test: deps lint unit e2e

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

unit:
	cargo test --locked --workspace --lib --bins --no-fail-fast

# Every test binary of every member: architecture, the API server's own, the end-to-end suites. The whole workspace
# each time, or cargo would build it anew with other features.
e2e:
	cargo test --locked --workspace --test '*' --no-fail-fast

bench: build
	cargo bench --locked

torture:
	cargo test --locked --workspace --test torture -- --long
	SKIFF_TORTURE_ROUNDS=200 cargo test --locked --workspace --test etcd killed
	PROPTEST_CASES=2000 cargo test --locked --workspace --lib agree_with_a_plain_model

corpus:
	SKIFF_CORPUS=whole cargo test --locked --workspace --test pods
	SKIFF_FAULTS=long cargo test --locked --workspace --test node faults::
