#!/bin/bash
# Swaps the kubelet of a kind node for skiff, or back; its pods go on.
#   swap-kubelet.sh NODE [BINARY]     BINARY is copied into the node; without it the node has /usr/local/bin/skiff mounted
#   swap-kubelet.sh --back NODE
# DOCKER names the program that runs kind's nodes (docker by default; podman, nerdctl).
set -euo pipefail
docker=${DOCKER:-docker}
usage() { sed -n 's/^#   //p' "$0" >&2; exit 2; }
in_node() { "$docker" exec "$node" "$@"; }

back=
[ "${1:-}" = --back ] && { back=yes; shift; }
[ $# -ge 1 ] && [ $# -le 2 ] || usage
node=$1

if [ -n "$back" ]; then
    in_node mv -f /usr/bin/kubelet.stock /usr/bin/kubelet
    in_node rm -f /etc/systemd/system/kubelet.service.d/20-skiff.conf
else
    if [ $# = 2 ]; then
        "$docker" cp "$2" "$node:/usr/local/bin/skiff"
    fi
    in_node test -x /usr/local/bin/skiff || { echo "error: $node has no /usr/local/bin/skiff: give BINARY" >&2; exit 1; }
    # The kubelet itself is kept once; a second swap must not take the link for it.
    in_node sh -c 'test -e /usr/bin/kubelet.stock || mv /usr/bin/kubelet /usr/bin/kubelet.stock'
    in_node ln -sf /usr/local/bin/skiff /usr/bin/kubelet
    # kind's unit is of type simple and keeps its ExecStart, by which flags are passed.
    in_node sh -c 'mkdir -p /etc/systemd/system/kubelet.service.d &&
        printf "[Service]\nType=notify\nWatchdogSec=30s\nKillMode=process\nDelegate=yes\n" \
            >/etc/systemd/system/kubelet.service.d/20-skiff.conf'
fi
in_node systemctl daemon-reload
in_node systemctl restart kubelet
in_node systemctl --no-pager --lines=0 status kubelet
