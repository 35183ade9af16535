#!/usr/bin/env bash
# Find a Chromium for the browser tests. Where there is none, root on Debian installs its
# package; otherwise Playwright's own build is tried. Never fails: without a browser the
# tests that need one skip and say so (in CI such a skip is a failure).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./apt.sh

find_browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        # Ubuntu's chromium-browser may be a stub that only asks for the snap.
        if command -v "$name" >/dev/null && "$name" --version >/dev/null 2>&1; then
            command -v "$name"
            return
        fi
    done
    ../.venv/bin/python - 2>/dev/null <<'PYTHON'
import pathlib
import sys

from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    path = playwright.chromium.executable_path
sys.exit(0 if pathlib.Path(path).exists() and print(path) is None else 1)
PYTHON
}

is_debian() {
    [[ -r /etc/os-release ]] && (source /etc/os-release && [[ "$ID" == debian ]])
}

if ! browser="$(find_browser)"; then
    if can_apt && is_debian; then
        apt_install chromium || true
    else
        echo "No Chromium found; trying Playwright's own build ..."
        system_libraries=()
        if can_apt; then system_libraries=(--with-deps); fi
        timeout 300 ../.venv/bin/python -m playwright install \
            ${system_libraries[@]+"${system_libraries[@]}"} chromium || true
    fi
    browser="$(find_browser)" || browser=""
fi
if [[ -n "$browser" ]]; then
    echo "Browser tests use $browser"
else
    echo "Browser tests will be skipped: no Chromium here and none could be installed." \
        "Install chromium or google-chrome to run them."
fi
