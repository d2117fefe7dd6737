#!/usr/bin/env bash
# The README's two commands as a newcomer meets them: a user made for it, an empty home, no caches, a fresh clone of HEAD.
# Prints how long each took, and leaves nothing behind.
#
#   tests/newcomer.sh             make up, until its curl line has answered; Ctrl-C; make up once more
#   tests/newcomer.sh --test      and then make test
#   ARGS="--port 9000" …          options of `sparkgate up`, where the usual ports are taken
#
# As root it makes a user and removes it again; otherwise the same user gets an empty home and environment. What reaches
# the package indexes (PIP_*, npm's registry, proxies, certificates) is handed on, nothing else.
set -euo pipefail
set -m  # each background job a process group of its own, so that one signal is a terminal's Ctrl-C

repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
name=sg-newcomer-$$
home=$(mktemp -d "/tmp/$name.XXXX")
log=$home/up.log
running=
owner=$(id -un)
as_newcomer=(env -i HOME="$home" USER="$name" LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin)
while IFS= read -r variable; do
    case $variable in
        PIP_* | npm_config_* | *_proxy | *_PROXY | *_CA_BUNDLE | SSL_CERT_* | NODE_EXTRA_CA_CERTS) as_newcomer+=("$variable=${!variable}") ;;
    esac
done < <(compgen -e)
if registry=$(npm config get registry 2>/dev/null); then as_newcomer+=("npm_config_registry=$registry"); fi

leave() {
    [ -z "$running" ] || kill -TERM -- "-$running" 2>/dev/null && wait "$running" 2>/dev/null || true
    if [ "$(id -u)" = 0 ]; then userdel -f "$name" 2>/dev/null || true; fi
    rm -rf "$home"
}
trap leave EXIT

fail() { echo "newcomer: $1" >&2; tail -n 30 "$log" >&2 2>/dev/null || true; exit 1; }
now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", to - from }'; }
row() { printf '%-48s %7s s\n' "$1" "$2"; }

if [ "$(id -u)" = 0 ]; then
    useradd --no-create-home --home-dir "$home" --shell /bin/bash "$name"
    owner=$name
    as_newcomer=(runuser -u "$name" -- "${as_newcomer[@]}")
fi
git clone --quiet --bare --no-hardlinks "$repository" "$home/origin.git"
[ "$(id -u)" != 0 ] || chown -R "$name:" "$home"
cd "$home"

up() {  # up WHICH: make up until the call that it prints has answered, then Ctrl-C
    local begun call answer left
    begun=$(now)
    "${as_newcomer[@]}" make -C sparkgate up ARGS="${ARGS:-}" >"$log" 2>&1 &
    running=$!
    until call=$(grep -s -m 1 '^  curl ' "$log"); do
        kill -0 "$running" 2>/dev/null || fail "make up ended by itself:"
        sleep 0.1
    done
    row "make up, $1: ready" "$(since "$begun")"
    answer=$(cd sparkgate && "${as_newcomer[@]}" bash -c "$call" 2>&1) || fail "its curl line failed: $answer"
    grep -q '^data: {' <<<"$answer" && grep -q '^data: \[DONE\]' <<<"$answer" || fail "its curl line got: $answer"
    row "make up, $1: its curl line has answered" "$(since "$begun")"
    begun=$(now)
    kill -INT -- "-$running"
    wait "$running" || true
    running=
    row "Ctrl-C, $1: everything has ended" "$(since "$begun")"
    left=$(ps -o stat=,pid=,args= -u "$owner" | awk '$1 !~ /^Z/' | grep -F "$home" || true)
    [ -z "$left" ] || fail "processes are left: $left"
}

begun=$(now)
"${as_newcomer[@]}" git clone --quiet origin.git sparkgate
row "git clone" "$(since "$begun")"
up "the first time"
up "again"
if [ "${1:-}" = --test ]; then
    : >"$log"
    begun=$(now)
    "${as_newcomer[@]}" make -C sparkgate test || fail "make test failed"
    row "make test" "$(since "$begun")"
fi
du -sh sparkgate/.venv sparkgate/.sparkgate | sed 's/^/disk: /'
