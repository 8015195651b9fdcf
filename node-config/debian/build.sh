#!/bin/bash
# Makes the Debian package: build.sh BINARY FOLDER writes FOLDER/skiff_<version>_<architecture>.deb and prints its path.
# dpkg-deb alone, which every Debian has: there is nothing to compile here, and no tool to install.
# SKIFF_DEB_COMPRESSION chooses dpkg-deb's compression (none, gzip, xz).
set -euo pipefail
binary=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")"

version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' ../../Cargo.toml)
kubelet=$(sed -n 's/^pub const KUBELET_VERSION: &str = "v\(.*\)";/\1/p' ../../src/actors/node/status.rs)
architecture=$(dpkg --print-architecture)
# What the program was linked with is what it needs at least.
glibc=$(getconf GNU_LIBC_VERSION | awk '{ print $2 }')

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"
install -D -m 755 "$binary" "$tree/usr/bin/skiff"
ln -s skiff "$tree/usr/bin/kubelet"
install -D -m 644 -t "$tree/usr/lib/systemd/system" ../systemd/kubelet.service ../systemd/skiff.service
install -D -m 644 kubelet.default "$tree/etc/default/kubelet"
install -D -m 644 skiff.default "$tree/etc/default/skiff"
install -D -m 644 ../../LICENSE "$tree/usr/share/doc/skiff/copyright"
install -D -m 644 -t "$tree/usr/share/doc/skiff" ../../README.md
install -D -m 644 -t "$tree/usr/share/doc/skiff/kind" ../kind/cluster.yaml
install -D -m 755 -t "$tree/usr/share/doc/skiff/kind" ../kind/swap-kubelet.sh
mkdir -p "$tree/usr/share/man/man1"
"$binary" man "$tree/usr/share/man/man1"
gzip -9 -n "$tree"/usr/share/man/man1/*.1

kibibytes=$(du -sk "$tree" | cut -f1)
mkdir "$tree/DEBIAN"
sed -e "s/@version@/$version/" -e "s/@architecture@/$architecture/" -e "s/@kibibytes@/$kibibytes/" \
    -e "s/@glibc@/$glibc/" -e "s/@kubelet@/$kubelet/" control >"$tree/DEBIAN/control"
install -m 644 -t "$tree/DEBIAN" conffiles
install -m 755 -t "$tree/DEBIAN" postinst prerm postrm
(cd "$tree" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"

package="$out/skiff_${version}_$architecture.deb"
dpkg-deb --root-owner-group -Z"${SKIFF_DEB_COMPRESSION:-xz}" --build "$tree" "$package" >/dev/null
echo "$package"
