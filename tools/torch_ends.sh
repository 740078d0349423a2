#!/usr/bin/env bash
# Run the engine's tests with the oldest PyTorch that pyproject.toml admits and with the newest that there is (or with
# the versions that are named), each in an environment of its own with all else as locked. Any build serves: the tests
# run on the CPU.
#
#   bash tools/torch_ends.sh [VERSION …]      # 2.10.0 and newest
#
# PYTHON: which Python. FOLDER: where the environments stay (default build/torch). PIP_OPTIONS: more options for pip.
# TESTS: what to run (default tests/engine).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${FOLDER:-build/torch}
python=${PYTHON:-$(bash tools/python.sh)}
oldest=$(sed -nE 's/^ *"torch>=([0-9.]+)".*/\1.0/p' pyproject.toml)
for version in "${@:-}"; do
  [[ -n $version ]] || { set -- "$oldest" newest; break; }
done
for version in "$@"; do
  venv=$folder/$version
  echo "== torch $version"
  [[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
  wanted=torch
  [[ $version == newest ]] || wanted="torch==$version"
  grep -vE '^(torch|triton|nvidia-.*-cu|cuda-|setuptools|sympy)' requirements-dev.lock >"$venv/locked.txt"
  # shellcheck disable=SC2086
  "$venv/bin/pip" install --quiet --disable-pip-version-check --upgrade ${PIP_OPTIONS:-} "$wanted" -r "$venv/locked.txt"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps k-diffusion==0.1.1.post1
  "$venv/bin/python" -c 'import torch; print("torch", torch.__version__)'
  # shellcheck disable=SC2086
  SD_DEVICE=cpu "$venv/bin/python" -m pytest -q -p no:cacheprovider ${TESTS:-tests/engine}
done
