"""Prompt styles: texts by name that a request puts around its prompts.

Read from ``styles.csv`` in the models folder, in A1111's format: columns ``name``, ``prompt`` and
``negative_prompt``.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

FILE: Final = "styles.csv"
PLACEHOLDER: Final = "{prompt}"


@dataclass(frozen=True, slots=True)
class Style:
    """One style. A text with ``{prompt}`` takes the prompt in there; any other is appended after a comma."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


class StyleBook:
    """All styles by name, in the file's order."""

    def __init__(self, styles: Iterable[Style] = ()) -> None:
        self._styles = {style.name: style for style in styles}

    @classmethod
    def read(cls, folder: Path | None) -> "StyleBook":
        """The styles of ``folder``; none where there is no file. A damaged file is logged and counts as none."""
        path = folder / FILE if folder else None
        if path is None or not path.is_file():
            return cls()
        try:
            # utf-8-sig: spreadsheets write a byte order mark.
            with path.open(encoding="utf-8-sig", newline="") as stream:
                return cls(_rows(csv.DictReader(stream)))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            log.error("the styles cannot be read", path=str(path), error=str(error))
            return cls()

    def all(self) -> Sequence[Style]:
        """In the file's order."""
        return tuple(self._styles.values())

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that are not here; "None" stands for no style."""
        return [name for name in names if name not in self._styles and name != "None"]

    def apply(self, prompt: str, negative_prompt: str, names: Iterable[str]) -> tuple[str, str]:
        """Prompt and negative prompt with the styles of ``names`` put on in order; unknown names change nothing."""
        for name in names:
            if (style := self._styles.get(name)) is not None:
                prompt = _merge(style.prompt, prompt)
                negative_prompt = _merge(style.negative_prompt, negative_prompt)
        return prompt, negative_prompt


NO_STYLES: Final = StyleBook()


def _rows(rows: Iterable[dict[str, str | None]]) -> Iterable[Style]:
    for row in rows:
        if name := (row.get("name") or "").strip():
            # Before A1111 had negative prompts the column was called "text".
            yield Style(name, row.get("prompt") or row.get("text") or "", row.get("negative_prompt") or "")


def _merge(style: str, prompt: str) -> str:
    if PLACEHOLDER in style:
        return style.replace(PLACEHOLDER, prompt)
    return ", ".join(part for part in (prompt.strip(), style.strip()) if part)
