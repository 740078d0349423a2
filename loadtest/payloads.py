"""What each request asks for: one body, or prompts and sizes taken in turn."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest.options import OptionError

DEFAULT_PROMPT = "pretty dog"


@dataclass(frozen=True, slots=True)
class Payload:
    """A body, the name of its group in the report ("" where all requests are alike), and its path ("": the URL's)."""

    body: bytes
    group: str = ""
    path: str = ""


class Payloads:
    """Endless bodies: every prompt with every size, in turn. Built once, so that sending costs nothing."""

    def __init__(
        self,
        body: bytes | None,
        prompts: Sequence[str] = (),
        sizes: Sequence[tuple[int, int]] = (),
        steps: int | None = None,
    ) -> None:
        """``body`` is sent as it is unless prompts, sizes or steps are set in it (then it must be a JSON
        object).
        """
        self.template: dict[str, Any] | None = None
        changes = bool(prompts or sizes or steps)
        if changes:
            self.template = self._object(body) if body else {}
        elif body and body.lstrip().startswith(b"{"):
            # Not ours to refuse: a load test may want to send a broken body. Recordings need it parsed.
            try:
                self.template = self._object(body)
            except OptionError:
                self.template = None
        if not changes:
            self._cycle = [Payload(body or b"")]
        else:
            base = dict(self.template or {})
            if "prompt" not in base and not prompts:
                prompts = (DEFAULT_PROMPT,)
            self._cycle = [
                Payload(orjson.dumps(base | one | two | three), self._group(index, one, two, prompts, sizes))
                for (index, one), two in itertools.product(
                    enumerate([{"prompt": prompt} for prompt in prompts] or [{}]),
                    [{"width": width, "height": height} for width, height in sizes] or [{}],
                )
                for three in [{"steps": steps} if steps else {}]
            ]

    @property
    def distinct(self) -> int:
        """How many different bodies there are."""
        return len(self._cycle)

    def of(self, number: int, changes: Mapping[str, Any], path: str = "") -> Payload:
        """The body of request ``number`` (0-based); ``changes`` and ``path`` come from a recording and win."""
        payload = self._cycle[number % len(self._cycle)]
        if not changes:
            return payload
        # A path says that the recording has the whole request.
        default = {} if path else {"prompt": DEFAULT_PROMPT}
        base = orjson.loads(payload.body) if self.template is not None and not path else default
        merged: dict[str, Any] = {**base, **changes}
        group = (
            f"{merged['width']}×{merged['height']}" if {"width", "height"} <= merged.keys() else payload.group
        )
        return Payload(orjson.dumps(merged), group, path)

    @staticmethod
    def _object(body: bytes) -> dict[str, Any]:
        try:
            parsed = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise OptionError(
                f"The body is not JSON ({error}): --prompt, --size and --steps set fields of it."
            ) from None
        if not isinstance(parsed, dict):
            raise OptionError("The body is not a JSON object: --prompt, --size and --steps set fields of it.")
        return parsed

    @staticmethod
    def _group(
        index: int,
        prompt: Mapping[str, str],
        side: Mapping[str, int],
        prompts: Sequence[str],
        sizes: Sequence[tuple[int, int]],
    ) -> str:
        parts = []
        if len(sizes) > 1:
            parts.append(f"{side['width']}×{side['height']}")
        if len(prompts) > 1:
            text = prompt["prompt"]
            parts.append(f"{index + 1}. {text if len(text) <= 40 else text[:39] + '…'}")
        return " · ".join(parts)


def read_body(data: str | None, data_file: Path | None) -> bytes | None:
    """The body given by ``-d`` or ``-D``, or None."""
    if data is not None and data_file is not None:
        raise OptionError("Give the body with -d or with -D, not both.")
    if data_file is None:
        return None if data is None else data.encode()
    try:
        return data_file.read_bytes()
    except OSError as error:
        raise OptionError(f"The body {data_file} can't be read: {error.strerror}.") from None


def read_prompts(path: Path) -> list[str]:
    """Prompts from a file, one a line; empty lines and lines that start with # don't count."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"The prompts {path} can't be read: {error}.") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise OptionError(f"{path} holds no prompt.")
    return prompts
