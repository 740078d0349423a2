"""The sweep file: axes whose values are combined, over a list of rows, on top of defaults.

::

    defaults: {steps: 20, width: 512, height: 512}
    axes:                                  # every value with every other; the first axis varies slowest
      prompt: {file: prompts.txt}          # one a line; paths are relative to this file
      cfg_scale: [4, 7, 10]
      seed: {from: 1, to: 4}               # 1, 2, 3, 4; with `step` in other steps
      shape: [{width: 512, height: 768}, {width: 768, height: 512}]  # several fields together; the name is free
    combine: product                       # or zip: the first values together, the second ones together …
    list:                                  # each of these with every combination
      - {sampler_name: Euler a}
      - {sampler_name: DPM++ 2M, scheduler: Karras}
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from service.batch.errors import BatchError
from service.batch.rows import FIELDS, OVERRIDES, Row, check_column, make_row

MOST_ROWS: Final = 1_000_000
_KEYS: Final = ("defaults", "axes", "combine", "list")


def read(path: Path) -> Iterator[Row]:
    """The rows of the sweep file ``path``. Raises :class:`BatchError`."""
    try:
        import yaml
    except ModuleNotFoundError:
        raise BatchError("A sweep file needs PyYAML: pip install 'knative-diffusion[batch]'.") from None
    try:
        sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BatchError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    yield from expand(sweep, path)


def expand(sweep: Any, path: Path) -> Iterator[Row]:
    """The rows that ``sweep`` means; ``path`` is where it stood: for errors, and for files that it names."""
    if not isinstance(sweep, Mapping) or not set(sweep) & {"axes", "list"}:
        raise BatchError(f"{path} is no sweep: it needs `axes` (fields and their values) or `list` (rows).")
    for key in sweep:
        if key not in _KEYS:
            raise BatchError(f"{path}: unknown key {str(key)[:60]!r}: a sweep has {', '.join(_KEYS)}.")
    defaults = _fields(sweep.get("defaults") or {}, f"{path}, defaults")
    rows = sweep.get("list", [{}])
    if not isinstance(rows, list) or not rows:
        raise BatchError(f"{path}, list: must be a list of rows, as in - {{prompt: a red apple}}.")
    rows = [_fields(row, f"{path}, list {number}") for number, row in enumerate(rows, 1)]
    axes = sweep.get("axes") or {}
    if not isinstance(axes, Mapping):
        raise BatchError(f"{path}, axes: must name fields and their values, as in cfg_scale: [4, 7].")
    values = [_axis(str(name), given, path) for name, given in axes.items()]
    if math.prod(map(len, values)) * len(rows) > MOST_ROWS:
        raise BatchError(f"{path} means more than {MOST_ROWS:,} rows: give its axes fewer values.")
    points = _combined(values, axes, sweep.get("combine", "product"), path)
    for number, (point, row) in enumerate(itertools.product(points, rows), 1):
        merged: dict[str, Any] = {}
        for part in (defaults, row, *point):
            merged |= {name: value for name, value in part.items() if name != OVERRIDES}
            if own := part.get(OVERRIDES):
                merged[OVERRIDES] = {**merged.get(OVERRIDES, {}), **own}
        yield make_row(number, merged, f"{path}, row {number}")


def _combined(
    values: Sequence[Sequence[Mapping[str, Any]]], axes: Mapping[str, Any], how: Any, path: Path
) -> Iterator[Sequence[Mapping[str, Any]]]:
    if how == "product":
        return itertools.product(*values)
    if how != "zip":
        raise BatchError(f"{path}, combine: {str(how)[:40]!r} is neither product nor zip.")
    lengths = {name: len(one) for name, one in zip(axes, values, strict=True)}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise BatchError(f"{path}: to zip them, all axes need as many values ({counts}).")
    return iter(list(zip(*values, strict=True)) if values else [()])


def _fields(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise BatchError(f"{where}: must be fields and their values, as in {{steps: 20}}.")
    for name in row:
        check_column(str(name), where)
    return {str(name): value for name, value in row.items()}


def _axis(name: str, given: Any, path: Path) -> list[Mapping[str, Any]]:
    """What each value of an axis sets."""
    where = f"{path}, axis {name}"
    values = _values(given, path, where)
    if not values:
        raise BatchError(f"{where} has no values: give it one, or take it out.")
    together = name not in FIELDS and all(isinstance(value, Mapping) for value in values)
    if together:
        return [_fields(value, where) for value in values]
    check_column(name, where)
    return [{name: value} for value in values]


def _values(given: Any, path: Path, where: str) -> list[Any]:
    if isinstance(given, list):
        return given
    if isinstance(given, Mapping) and set(given) == {"file"}:
        return _lines(path.parent / str(given["file"]), where)
    if isinstance(given, Mapping) and {"from", "to"} <= set(given) <= {"from", "to", "step"}:
        return _range(given["from"], given["to"], given.get("step", 1), where)
    raise BatchError(f"{where}: give a list of values, {{file: prompts.txt}} or {{from: 1, to: 4}}.")


def _range(first: Any, last: Any, step: Any, where: str) -> list[Any]:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (first, last, step))
    if not numbers or step <= 0 or last < first or (last - first) / step > MOST_ROWS:
        raise BatchError(f"{where}: from, to and step must be numbers, from ≤ to, step above 0.")
    count = int((last - first) / step + 1e-9) + 1
    # By multiplication and rounded: 0.1 added up ten times is not 1.
    return [
        first + index * step if isinstance(step, int) else round(first + index * step, 10)
        for index in range(count)
    ]


def _lines(path: Path, where: str) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BatchError(
            f"{where}: {path} can't be read: {getattr(error, 'strerror', None) or 'not UTF-8'}."
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
