#!/bin/bash
# Stops the node of `make up` with its pods, and removes everything it made.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${SKIFF_DATA:-/var/lib/skiff}
skiff=$(realpath "${SKIFF:-${CARGO_TARGET_DIR:-target}/release/skiff}")
[ "$(id -u)" = 0 ] || { echo "error: sudo make down" >&2; exit 1; }
[ -e "$data/version" ] || { echo "no node in $data"; exit 0; }

# is PID NAME: that process runs under that name; an ended one that nobody has waited for does not.
is() { [ -n "${1:-}" ] && grep -qs "^$1 ($2) [^ZX]" "/proc/$1/stat"; }
pid=$(cat "$data/lock" 2>/dev/null || true)
if ! is "$pid" skiff && pgrep -f "containerd-shim.* -address $data/run/containerd.sock" >/dev/null; then
    # It was killed, its pods were not: only a running node can stop them in order.
    # shellcheck disable=SC2086 # flags are words
    setsid "$skiff" standalone --data-dir "$data" --root-dir "$data/kubelet" --pod-logs-dir "$data/logs" \
        --stop-pods ${SKIFF_FLAGS:-} >"$data/run/skiff.log" 2>&1 </dev/null &
    pid=$!
    timeout 90 tail --pid="$pid" -n +1 -f "$data/run/skiff.log" | grep -q -m1 'node Ready' || true
fi
if is "$pid" skiff; then
    kill "$pid"
    for _ in $(seq 1500); do
        is "$pid" skiff || break
        sleep 0.1
    done
    ! is "$pid" skiff || { echo "error: skiff (process $pid) does not stop" >&2; exit 1; }
fi
# What is still mounted below, deepest first.
awk -v data="$data/" 'index($5, data) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r mount; do
    umount "$mount"
done
rm -rf "$data"
# The pods' cgroups, when no other node of this machine uses them; deepest first, busy ones stay.
find /sys/fs/cgroup -maxdepth 2 -type d -name kubepods 2>/dev/null | while read -r tree; do
    find "$tree" -depth -type d -exec rmdir {} + 2>/dev/null || true
done
echo "nothing is left of the node in $data"
