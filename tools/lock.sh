#!/usr/bin/env bash
# Write requirements.lock (what the service needs) and requirements-dev.lock (that, and what tests and tools need).
# PyTorch is pinned without a local version such as +cpu: each machine takes the build that its index offers.
set -euo pipefail
cd "$(dirname "$0")/.."
pin=$(mktemp)
trap 'rm -f "$pin"' EXIT
echo 'torch==2.13.0' > "$pin"
compile() {
  .venv/bin/pip-compile --quiet --strip-extras --no-emit-find-links --no-emit-index-url --no-emit-trusted-host \
    --no-emit-options --no-header --no-annotate --constraint "$pin" "${@:2}" --output-file "$1" pyproject.toml
  sed -i -E 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' "$1"
}
compile requirements.lock
compile requirements-dev.lock --extra dev --extra loadtest --constraint requirements.lock
