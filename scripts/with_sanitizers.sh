#!/usr/bin/env bash
# Run a Python command with the native extensions of a sanitizer build in place of the
# installed ones. Leak checking is off: the interpreter itself never frees everything.
#
# Usage: scripts/with_sanitizers.sh BUILD_DIR COMMAND...
set -euo pipefail

build_dir="$1"
shift
for extension in _native _neural _store; do
    if ! compgen -G "$build_dir/$extension.*.so" >/dev/null; then
        echo "No $extension.*.so in $build_dir; build it first: make check-native" >&2
        exit 1
    fi
done
compiler="${CXX:-c++}"
# The interpreter is not instrumented, so the run-time libraries have to be there before it.
libraries=()
for library in libasan.so libubsan.so libstdc++.so; do
    libraries+=("$("$compiler" -print-file-name="$library")")
done

export BELVEDERE_NATIVE_BUILD="$PWD/$build_dir"
export PYTEST_PLUGINS="scripts.native_extension"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:${ASAN_OPTIONS:-}"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:${UBSAN_OPTIONS:-}"
LD_PRELOAD="$(IFS=:; echo "${libraries[*]}")" exec "$@"
