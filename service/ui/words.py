"""The page's sentences in the languages it speaks: one file of JSON each, in ``locales/``."""

import json
from functools import cache
from pathlib import Path
from typing import Final

NAMES: Final = {"en": "English", "ja": "日本語", "ko": "한국어", "zh": "简体中文"}
"""Languages by code, each called as it calls itself."""


class Words:
    """The sentences of one language, by key. A key that it lacks is a mistake of ours and raises KeyError."""

    def __init__(self, language: str) -> None:
        self.language = language
        path = Path(__file__).parent / "locales" / f"{language}.json"
        self.sentences: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))

    def __call__(self, key: str, **values: object) -> str:
        """The sentence of ``key`` with ``values`` in its places."""
        return self.sentences[key].format(**values) if values else self.sentences[key]

    def get(self, key: str) -> str | None:
        """The sentence of ``key``, if there is one."""
        return self.sentences.get(key)


@cache
def words(language: str) -> Words:
    """The sentences of ``language``; English where we do not speak it."""
    return Words(language if language in NAMES else "en")


def preferred(accept_language: str) -> str:
    """The language of ours that a browser's ``Accept-Language`` prefers."""
    wanted: list[tuple[float, int, str]] = []
    for part in accept_language.split(",")[:20]:
        name, _, quality = part.strip().partition(";q=")
        try:
            wanted.append((-float(quality or 1), len(wanted), name.lower()))
        except ValueError:
            continue
    for _, _, name in sorted(wanted):
        if (code := name.partition("-")[0]) in NAMES:
            return code
    return "en"
