#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the wheel, installs it into a virtual environment of its own, and checks it there:
#
#     DIOLKOS_BIN=target/release/diolkos bindings/python/check.sh [PATTERN]
#
# Everything it makes is below the target directory. Ends with the line `N passed, N failed, N skipped`.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
made=$target/python
venv=${DIOLKOS_PYTHON_VENV:-$made/venv}
python=${PYTHON:-python3}
passed=0
failed=0

# Where this machine can't do it, that is a skip; an error in CI.
skip() {
    if [ -n "${CI:-}" ]; then
        echo "FAIL python: $1 (an error because CI is set)"
        echo "0 passed, 1 failed, 0 skipped"
        exit 1
    fi
    echo "SKIP python: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}

step() {
    name=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok   $name"
    else
        failed=$((failed + 1))
        echo "FAIL $name"
    fi
}

# Without the package there is nothing to check.
must() {
    step "$@"
    if [ "$failed" -gt 0 ]; then
        echo "$passed passed, $failed failed, 0 skipped"
        exit 1
    fi
}

: "${DIOLKOS_BIN:=$target/debug/diolkos}"
export DIOLKOS_BIN PYTHONDONTWRITEBYTECODE=1 MYPY_CACHE_DIR="$made/mypy"
if [ ! -x "$DIOLKOS_BIN" ]; then
    echo "FAIL python: no daemon at $DIOLKOS_BIN; run \`cargo build --package diolkos\` or set DIOLKOS_BIN"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
case $DIOLKOS_BIN in /*) ;; *) DIOLKOS_BIN=$(pwd)/$DIOLKOS_BIN ;; esac

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "$python is not there, or older than 3.11"
mkdir -p "$made"
if ! cmp -s "$here/tests/requirements.txt" "$venv/requirements.txt"; then
    "$python" -m venv --clear "$venv" || skip "$python -m venv failed (Debian: apt install python3-venv)"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: -r "$here/tests/requirements.txt" ||
        skip "pip can't install tests/requirements.txt: no package registry?"
    cp "$here/tests/requirements.txt" "$venv/requirements.txt"
fi
python=$venv/bin/python

build() {
    rm -rf "$made/wheels"
    (cd "$here" && "$venv/bin/maturin" build --quiet --release --locked --interpreter "$python" \
        --target-dir "$made/target" --out "$made/wheels")
}

install() {
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --force-reinstall "$made"/wheels/*.whl
}

types() {
    (cd "$here" && MYPYPATH=tests "$python" -m mypy --strict tests &&
        "$python" -m mypy --strict --package diolkos) &&
        # It keeps its cache where it is run.
        (cd "$made" && "$python" -m mypy.stubtest --mypy-config-file "$here/pyproject.toml" diolkos._native)
}

must "the wheel is built" build
must "the wheel is installed" install
step "types: mypy --strict, and the stub says what is there" types

# The last line is counted here, and must not be read as another one further up.
status=0
(cd "$made" && "$python" -u "$here/tests/run.py" "$@"; echo "status $?") > "$made/log" 2>&1 || true
grep -Ev '^([0-9]+ passed, [0-9]+ failed, [0-9]+ skipped|status [0-9]+)$' "$made/log" || true
status=$(sed -n 's/^status //p' "$made/log" | tail -n 1)
counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$made/log" | tail -n 1)
if [ -z "$counts" ] || { [ "$status" != 0 ] && [ "${counts#*, 0 failed}" != "$counts" ]; }; then
    echo "FAIL python: the checks ended with status $status${counts:+ and no failure}${counts:-, and without a count}"
    failed=$((failed + 1))
fi
# shellcheck disable=SC2086 # words are wanted
set -- ${counts:-0 passed, 0 failed, 0 skipped}
passed=$((passed + $1))
failed=$((failed + $3))
echo "$passed passed, $failed failed, $5 skipped"
[ "$failed" -eq 0 ]
