#!/usr/bin/env bash
# The name of a Python that pyproject.toml admits and that can make environments; the oldest first, with which
# the tests run. Says what is missing where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
range=$(sed -nE 's/^requires-python = ">=3\.([0-9]+),<3\.([0-9]+)"$/\1 \2/p' pyproject.toml)
read -r low high <<<"$range"
candidates=()
for ((minor = low; minor < high; minor++)); do candidates+=("python3.$minor"); done
candidates+=(python3 python)
without_venv=""
for name in "${candidates[@]}"; do
  command -v "$name" >/dev/null || continue
  "$name" -c "import sys; sys.exit(not ((3, $low) <= sys.version_info[:2] < (3, $high)))" 2>/dev/null || continue
  if "$name" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "$name"
    exit 0
  fi
  without_venv=${without_venv:-$name}
done
if [[ -n $without_venv ]]; then
  echo "$without_venv is here, but cannot make environments. On Debian: apt-get install $without_venv-venv" >&2
else
  echo "No Python 3.$low to 3.$((high - 1)) found. On Debian: apt-get install python3 python3-venv" >&2
fi
exit 1
