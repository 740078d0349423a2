"""Comments: what follows a ``#`` in a prompt is for people."""

import re
from typing import Final

_COMMENT: Final = re.compile(r"#[^\n]*+")


def strip_comments(prompt: str) -> str:
    """``prompt`` without its comments (``#`` to the end of the line); lines that held nothing else vanish."""
    if "#" not in prompt:
        return prompt
    lines: list[str] = []
    for line in prompt.split("\n"):
        kept = _COMMENT.sub("", line)
        if kept != line and not kept.strip():
            continue
        lines.append(kept.rstrip() if kept != line else line)
    return "\n".join(lines)
