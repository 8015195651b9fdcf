#!/bin/bash
# Boots a node in the background and runs the pod in node-config/examples/hello.yaml on it.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
skiff=$(realpath "${SKIFF:-$target/release/skiff}")
kubectl=$(realpath "$target/deps-system/kubectl")
data=${SKIFF_DATA:-/var/lib/skiff}
log=$data/run/skiff.log

[ "$(id -u)" = 0 ] || { echo "error: a node must run as root: sudo make up" >&2; exit 1; }
mkdir -p "$data/images" "$data/run"
# The image of hello.yaml, made here when no registry answers (and when one does: nothing leaves this machine).
[ -e "$data/images/busybox.tar" ] || tests/busybox-archive.sh "$data/images/busybox.tar"

if pid=$(cat "$data/lock" 2>/dev/null) && [ -n "$pid" ] && [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$skiff" ]; then
    echo "skiff runs already (process $pid)"
else
    # shellcheck disable=SC2086 # flags are words
    setsid "$skiff" standalone --data-dir "$data" --root-dir "$data/kubelet" --pod-logs-dir "$data/logs" \
        --stop-pods ${SKIFF_FLAGS:-} >"$log" 2>&1 </dev/null &
    pid=$!
    # What it says until the node is Ready or it ends.
    timeout 90 tail --pid="$pid" -n +1 -f "$log" | sed '/node Ready/q' || true
    grep -q 'node Ready' "$log" || { echo "error: the node is not Ready; see $log" >&2; exit 1; }
fi

export KUBECONFIG=$data/admin.kubeconfig
posted=$(date +%s%N)
"$kubectl" apply -f node-config/examples/hello.yaml
"$kubectl" wait --for=condition=Ready pod/hello --timeout=60s
echo "pod Ready after $((($(date +%s%N) - posted) / 1000000)) ms (kubectl's own starts included)"
echo
"$kubectl" logs hello
echo
"$kubectl" get nodes,pods -A -o wide
cat <<NEXT

Next:
  export KUBECONFIG=$KUBECONFIG PATH=$(dirname "$kubectl"):\$PATH
  kubectl get pods -A -w
  kubectl exec -it hello -- sh
  kubectl logs -f hello
  make down
NEXT
