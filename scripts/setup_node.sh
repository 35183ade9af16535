#!/usr/bin/env bash
# Install the third-party converter (tests/splat_transform) that the format tests are
# checked against. It brings its own Node.js; only npm is needed. Never fails: without it
# the tests that need it skip and say so (in CI such a skip is a failure).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ./apt.sh

if ! command -v npm >/dev/null && can_apt; then
    apt_install nodejs npm || true
fi
if ! command -v npm >/dev/null; then
    echo "Format tests against splat-transform will be skipped: npm is missing." \
        "Install nodejs and npm to run them."
    exit 0
fi
echo "Installing splat-transform for the format tests ..."
if ! npm ci --prefix ../tests/splat_transform --no-audit --no-fund --loglevel=error; then
    rm -rf ../tests/splat_transform/node_modules
    echo "Format tests against splat-transform will be skipped: npm could not install it."
fi
