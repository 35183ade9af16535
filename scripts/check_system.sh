#!/usr/bin/env bash
# Make sure of what pip cannot install: Python >= 3.10 with venv and headers, and a C++
# compiler. As root on Debian or Ubuntu the missing packages are installed; otherwise the
# command that installs them is printed and the script fails.
#
# Usage: scripts/check_system.sh PYTHON
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/apt.sh"

python="${1:-python3}"

if ! command -v "$python" >/dev/null; then
    [[ "$python" == python3 ]] || fail "There is no $python on this machine."
    need_apt "Python is missing" python3 python3-venv python3-dev
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    fail "$("$python" --version) is too old: Belvedere needs Python 3.10 or newer." \
        "Name one with: make setup PYTHON=python3.12"
fi

version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python${version}-venv")
"$python" -c 'import pathlib, sysconfig, sys
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())' \
    || missing+=("python${version}-dev")
command -v "${CXX:-c++}" >/dev/null || missing+=("g++")
if ((${#missing[@]})); then
    need_apt "System packages are missing" "${missing[@]}"
fi
