#!/usr/bin/env bash
# Write requirements.lock (what the service needs), requirements-dev.lock (that, every extra, and what tests and tools
# need: one environment holds all of it) and requirements-gpu.lock (what the image for GPUs needs); and in hashes/ the
# same versions with the SHA-256 of every file that PyPI has of them, for `pip install --require-hashes`.
# PyTorch is pinned without a local version such as +cpu: each machine takes the build that its index offers.
# The lock for GPUs pins the PyTorch that xformers' kernels were built with (`python -m xformers.info`: build.torch_version):
# its extension does not load beside every later one.
#
#   bash tools/lock.sh             # both
#   bash tools/lock.sh hashes      # the hashes alone, of the locks as they are
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip_compile=${LOCK_WITH:-.venv/bin/pip-compile}  # not PIP_COMPILE: pip would take that for an option
extras=(dev loadtest batch front ray ui)

compile() {
  "$pip_compile" --quiet --strip-extras --no-emit-find-links --no-emit-index-url \
    --no-emit-trusted-host --no-emit-options --no-header --no-annotate "${@:2}" --output-file "$1" pyproject.toml
  sed -i -E 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' "$1"
}

if [[ ${1:-all} == all ]]; then
  echo 'torch==2.13.0' >"$work/torch"
  echo 'torch==2.10.0' >"$work/gpu"
  compile requirements-dev.lock "${extras[@]/#/--extra=}" --constraint "$work/torch" ${CONSTRAINT:+--constraint "$CONSTRAINT"}
  grep -v '^#' requirements-dev.lock >"$work/all"
  compile requirements.lock --constraint "$work/torch" --constraint "$work/all"
  # All else as in the lock that the tests run with, but for the libraries that PyTorch brings itself.
  grep -vE '^(torch|triton|nvidia-|cuda-|setuptools|#)' requirements.lock >"$work/others"
  grep -E '^nvidia-ml-py' requirements.lock >>"$work/others"
  compile requirements-gpu.lock --extra gpu --constraint "$work/gpu" --constraint "$work/others"
fi
"${LOCK_PYTHON:-.venv/bin/python}" tools/hashes.py
