#!/bin/bash
# Runs every end-to-end suite that Cargo.toml declares, each as a test binary of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
suites=$(sed -n '/^\[\[test\]\]/,/^$/ s/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v '^suite$' || true)
if [ -z "$suites" ]; then
    echo "no end-to-end suite is declared"
    exit 0
fi
cargo build --locked --bin skiff
for suite in $suites; do
    cargo test --locked --test "$suite"
done
