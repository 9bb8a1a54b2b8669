#!/bin/bash
# Installs what this machine lacks to build, test and demonstrate Crib; quick when nothing is missing.
#
#   bash test/setup.sh [GROUP...]     groups: base test node arm64 bench (default: base)
#
#   base   build and demo: C compiler against musl, runc, crun, CNI plugins, a registry, skopeo
#   test   check and test: clang (analyser, sanitizers), clang-format, the arm64 cross compiler
#   node   the virtual machine of `npm run test:node`: qemu, Debian's bootstrap and disk tools
#   arm64  only the cross compiler, for `npm run build -- --arm64`
#   bench  the peers of the benchmarks: conmon, containerd, umoci
#
# Debian packages are installed with apt-get when a program is missing, however it got there
# otherwise (Docker's containerd.io also brings runc). No service is left running.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

cache=test/.cache
log=$cache/setup.log

# package:probe, where a probe is a program, a path (with "/") or a function.
base_packages=(
  musl-tools:musl-gcc runc:runc crun:crun containernetworking-plugins:has_cni_plugins
  iptables:iptables iproute2:ip busybox-static:has_static_busybox docker-registry:docker-registry
  skopeo:skopeo util-linux:unshare
)
arm64_packages=(
  gcc-aarch64-linux-gnu:aarch64-linux-gnu-gcc
  libc6-dev-arm64-cross:/usr/aarch64-linux-gnu/lib/libc.a
)
test_packages=(
  clang:clang clang-format:clang-format libclang-rt-dev:has_sanitizers procps:sysctl
  "${arm64_packages[@]}"
)
node_packages=(
  qemu-system-x86:qemu-system-x86_64 mmdebstrap:mmdebstrap e2fsprogs:mke2fs procps:sysctl
)
bench_packages=(conmon:conmon containerd:containerd umoci:umoci)

has_cni_plugins() { [[ -x /usr/lib/cni/bridge || -x /opt/cni/bin/bridge ]]; }

# An image made from a dynamic busybox would not start.
has_static_busybox() { [[ -x /bin/busybox ]] && ! ldd /bin/busybox 2>&1 | grep -q '=>'; }

has_sanitizers() { compgen -G '/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.asan-*.a' >/dev/null; }

say() { printf 'setup: %s\n' "$*" >&2; }

fail() {
  say "$1"
  if [[ -n ${2:-} ]]; then tail -n 20 "$2" >&2; fi
  exit 1
}

missing_packages() {
  local entry package probe
  for entry in "$@"; do
    package=${entry%%:*} probe=${entry#*:}
    case $probe in
      */*) [[ -e $probe ]] || echo "$package" ;;
      *) type "$probe" >/dev/null 2>&1 && { [[ $(type -t "$probe") != function ]] || "$probe"; } ||
        echo "$package" ;;
    esac
  done
}

# The sanitizers' package carries clang's version in its name.
real_package_names() {
  local package version
  for package in "$@"; do
    if [[ $package == libclang-rt-dev ]]; then
      version=$(apt-cache show clang 2>/dev/null | sed -n 's/^Depends: clang-\([0-9]*\).*/\1/p' | head -1)
      [[ -n $version ]] || fail "apt-cache knows no package clang: run apt-get update and try again"
      package=libclang-rt-$version-dev
    fi
    echo "$package"
  done
}

# Debian starts a service when its package is installed; policy-rc.d (101 = forbidden) prevents it.
policy=/usr/sbin/policy-rc.d
forbid_services() {
  if [[ -e $policy ]]; then "${as_root[@]}" mv "$policy" "$policy.before-crib"; fi
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
}
allow_services() {
  "${as_root[@]}" rm -f "$policy"
  if [[ -e $policy.before-crib ]]; then "${as_root[@]}" mv "$policy.before-crib" "$policy"; fi
}

apt_install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends \
    -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 install "$@" </dev/null >>"$log" 2>&1
}

install_packages() {
  local missing=("$@")
  type apt-get >/dev/null 2>&1 ||
    fail "this machine lacks ${missing[*]} (names of Debian packages) and has no apt-get: install them by hand"
  as_root=()
  if [[ $(id -u) != 0 ]]; then
    type sudo >/dev/null 2>&1 || fail "run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  mkdir -p $cache
  : >"$log"
  mapfile -t missing < <(real_package_names "${missing[@]}")
  say "installing ${missing[*]} (log: $log)"
  trap allow_services EXIT
  forbid_services
  if ! apt_install "${missing[@]}"; then
    say "refreshing apt's lists and trying again"
    "${as_root[@]}" apt-get -o Acquire::Retries=3 update </dev/null >>"$log" 2>&1 || true
    apt_install "${missing[@]}" ||
      fail "apt-get failed; install by hand: apt-get install ${missing[*]}" "$log"
  fi
  allow_services
  trap - EXIT
}

install_node_modules() {
  local stamp=node_modules/.crib-package-lock.json
  if cmp -s package-lock.json "$stamp"; then return; fi
  if [[ node_modules/.package-lock.json -nt package-lock.json ]]; then return; fi
  type npm >/dev/null 2>&1 || fail "npm is missing: install Node.js with npm 10 or newer"
  mkdir -p $cache
  say "npm ci"
  npm ci >"$cache/npm.log" 2>&1 || fail "npm ci failed" "$cache/npm.log"
  cp package-lock.json "$stamp"
}

wanted=()
for group in "${@:-base}"; do
  case $group in
    base) wanted+=("${base_packages[@]}") ;;
    test) wanted+=("${test_packages[@]}") ;;
    node) wanted+=("${node_packages[@]}") ;;
    arm64) wanted+=("${arm64_packages[@]}") ;;
    bench) wanted+=("${bench_packages[@]}") ;;
    *) fail "unknown group $group: base, test, node, arm64, bench" ;;
  esac
done

mapfile -t missing < <(missing_packages "${wanted[@]}")
if ((${#missing[@]})); then
  install_packages "${missing[@]}"
  mapfile -t missing < <(missing_packages "${wanted[@]}")
  ((${#missing[@]} == 0)) || fail "still missing after apt-get: ${missing[*]}" "$log"
fi
install_node_modules
