#!/usr/bin/env bash
# Write requirements.lock (what the service needs), requirements-dev.lock (that, and what tests and tools need) and
# requirements-gpu.lock (what the image for GPUs needs).
# PyTorch is pinned without a local version such as +cpu: each machine takes the build that its index offers.
# The lock for GPUs pins the PyTorch that xformers' kernels were built with (`python -m xformers.info`: build.torch_version):
# its extension does not load beside every later one.
set -euo pipefail
cd "$(dirname "$0")/.."
pin=$(mktemp -d)
trap 'rm -rf "$pin"' EXIT
echo 'torch==2.13.0' >"$pin/torch"
echo 'torch==2.10.0' >"$pin/gpu"
compile() {
  "${PIP_COMPILE:-.venv/bin/pip-compile}" --quiet --strip-extras --no-emit-find-links --no-emit-index-url \
    --no-emit-trusted-host --no-emit-options --no-header --no-annotate "${@:2}" --output-file "$1" pyproject.toml
  sed -i -E 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' "$1"
}
compile requirements.lock --constraint "$pin/torch"
compile requirements-dev.lock --extra dev --extra loadtest --constraint "$pin/torch" --constraint requirements.lock
# All else as in the lock that the tests run with, but for the libraries that PyTorch brings itself.
grep -vE '^(torch|triton|nvidia-|cuda-|setuptools)' requirements.lock >"$pin/others"
grep -E '^nvidia-ml-py' requirements.lock >>"$pin/others"
compile requirements-gpu.lock --extra gpu --constraint "$pin/gpu" --constraint "$pin/others"
