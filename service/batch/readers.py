"""Reads the input: JSON lines, CSV, or a sweep file, chosen by the file's suffix. All of it is read and its
columns checked before anything is made."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from service.api.sdapi.schemas import Img2ImgBody, Txt2ImgBody
from service.batch.errors import BatchError
from service.batch.rows import OVERRIDES, Row, check_column, make_row

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv", ".yaml", ".yml")


def read(path: Path) -> list[Row]:
    """The rows of ``path``, in order. Raises :class:`BatchError` with a sentence that names the line."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise BatchError(f"{path} is no input: its suffix must be one of {', '.join(SUFFIXES)}.")
    try:
        if suffix == ".csv":
            rows = list(_csv(path))
        elif suffix in (".yaml", ".yml"):
            from service.batch import sweep

            rows = list(sweep.read(path))
        else:
            rows = list(_json_lines(path))
    except OSError as error:
        raise BatchError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BatchError(f"{path} is not UTF-8 text: save it as UTF-8.") from None
    if not rows:
        raise BatchError(f"{path} has no rows: nothing to make.")
    _unique(rows, path)
    return rows


def _unique(rows: list[Row], path: Path) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        if row.label and (first := seen.setdefault(row.label.lower(), row.number)) != row.number:
            raise BatchError(
                f"{path}: rows {first} and {row.number} have the same id {row.label!r}: files would overwrite "
                "each other."
            )


def _json_lines(path: Path) -> Iterator[Row]:
    number = 0
    with path.open(encoding="utf-8-sig") as lines:
        for line_number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            number += 1
            where = f"{path}, line {line_number}"
            try:
                values = json.loads(line)
            except ValueError as error:
                raise BatchError(f"{where} is not JSON: {error}.") from None
            if not isinstance(values, dict):
                raise BatchError(f'{where} is no JSON object: write {{"prompt": "a red apple"}}, one a line.')
            yield make_row(number, values, where)


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            for name in header:
                check_column(name, f"{path}, line 1")
                if header.count(name) > 1:
                    raise BatchError(f"{path}, line 1: column {name!r} is there twice.")
            number = 0
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                number += 1
                where = f"{path}, line {reader.line_num}"
                if len(cells) > len(header):
                    raise BatchError(
                        f"{where} has {len(cells)} cells, but there are {len(header)} columns: put texts with commas "
                        "into quotes."
                    )
                pairs = zip(header, cells, strict=False)
                values = {name: _cell(name, cell, where) for name, cell in pairs if cell.strip()}
                yield make_row(number, values, where)
        except csv.Error as error:
            raise BatchError(f"{path}, line {reader.line_num} is no CSV: {error}.") from None


def _cell(name: str, text: str, where: str) -> Any:
    """What a cell means: JSON where the field is a list or an object, else the text; pydantic reads numbers."""
    stripped = text.strip()
    if name.startswith(OVERRIDES + "."):
        try:
            return json.loads(stripped)
        except ValueError:
            return stripped
    if name in _STRUCTURED and stripped[:1] in "[{":
        try:
            return json.loads(stripped)
        except ValueError as error:
            raise BatchError(f"{where}, column {name}: {stripped[:60]!r} is not JSON: {error}.") from None
    if name == "styles":
        return [stripped]
    if name in _PLAIN:
        try:
            value = json.loads(stripped.lower())
        except ValueError:
            return text  # told with the row
        return value if isinstance(value, int | float) else text
    return text


def _plain(fields: Mapping[str, Any]) -> set[str]:
    kinds = ("int", "float", "bool")
    return {name for name, field in fields.items() if any(kind in str(field.annotation) for kind in kinds)}


def _structured(fields: Mapping[str, Any]) -> set[str]:
    return {
        name
        for name, field in fields.items()
        if "list[" in str(field.annotation) or "dict[" in str(field.annotation)
    }


_STRUCTURED: Final = _structured(Txt2ImgBody.model_fields) | _structured(Img2ImgBody.model_fields)
_PLAIN: Final = (_plain(Txt2ImgBody.model_fields) | _plain(Img2ImgBody.model_fields)) - _STRUCTURED
