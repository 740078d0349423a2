#!/usr/bin/env bash
# How many small mistakes in turns, admission and translate the tests would notice: make mutation (about half an hour).
# Works on a copy of the tree, since it changes files while it runs.
set -euo pipefail
python=${1:-.venv/bin/python}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git archive HEAD | tar -x -C "$copy"
python=$(realpath -s "$python")
cd "$copy"
session() {  # name, module, seconds for a run, tests
  local name=$1 module=$2 timeout=$3
  shift 3
  cat >"$name.toml" <<TOML
[cosmic-ray]
module-path = "$module"
timeout = $timeout
excluded-modules = []
test-command = "$python -m pytest -q -x -p no:cacheprovider $*"
[cosmic-ray.distributor]
name = "local"
[cosmic-ray.filters.operators-filter]
# Types at run time are mypy's to check, and messages are for people.
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
TOML
  "$python" -m cosmic_ray.cli init "$name.toml" "$name.sqlite" --force
  "$python" -m cosmic_ray.tools.filters.operators_filter "$name.sqlite" "$name.toml"
  "$python" -m cosmic_ray.cli exec "$name.toml" "$name.sqlite"
  echo "== $module"
  "$python" -m cosmic_ray.tools.survival_rate "$name.sqlite" | sed 's/^/surviving %: /'
  "$python" -m cosmic_ray.tools.report "$name.sqlite" --surviving-only 2>/dev/null | grep -A12 -i survived | head -200 || true
}
only=${2:-}
[[ -n $only && $only != turns ]] || session turns service/core/turns.py 60 tests/test_turns.py
[[ -n $only && $only != admission ]] || session admission service/api/admission.py 120 \
  tests/api/test_admission.py tests/test_serving.py
[[ -n $only && $only != translate ]] || session translate service/api/sdapi/translate.py 120 \
  tests/api/test_images.py tests/api/test_coercions.py
