"""From rows to requests: overrides put on, seeds fixed, this shard's part taken, and what cannot be told early."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from service.api.limits import check as check_limits
from service.api.sdapi import translate
from service.api.sdapi.options import Options, checked
from service.api.sdapi.schemas import GenerationBody, Img2ImgBody, Txt2ImgBody
from service.api.sdapi.script_names import check_scripts
from service.batch.errors import BatchError
from service.batch.pictures import PictureFolder
from service.batch.rows import OVERRIDES, Kind, Row, canonical
from service.core.errors import BadRequest, ServiceError
from service.settings import Settings

SEEDS: Final = translate.SEEDS


@dataclass(frozen=True, slots=True)
class Request:
    """What row ``number`` asks for: ``body`` has a seed, and is all that the picture depends on."""

    number: int
    kind: Kind
    body: Mapping[str, Any]
    label: str = ""

    @property
    def stem(self) -> str:
        """The name of its files, without number and suffix."""
        return self.label or f"{self.number:06d}"


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``index`` (0-based) of ``count``: every ``count``-th row, so that all shards have alike work."""

    index: int = 0
    count: int = 1

    def has(self, number: int) -> bool:
        """True if row ``number`` (1-based) belongs to it."""
        return (number - 1) % self.count == self.index


def parse_shard(text: str | None, count: int | None) -> Shard:
    """The shard of ``--shard I/N``; without it, that of a Kubernetes Job's pod: index ``JOB_COMPLETION_INDEX``
    of ``count`` (``--shards``). Raises :class:`BatchError`."""
    if text is not None:
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not found:
            raise BatchError(f"--shard {text[:40]!r} is no shard: write I/N, counted from 0, as in 0/4.")
        index, count = int(found[1]), int(found[2])
    elif (completion := os.environ.get("JOB_COMPLETION_INDEX")) is not None:
        if count is None:
            raise BatchError(
                "JOB_COMPLETION_INDEX is set, but not how many shards there are: give --shards with the Job's "
                "completions."
            )
        index = int(completion) if completion.isdigit() else -1
    elif count in (None, 1):
        return Shard()
    else:
        raise BatchError("--shards says how many shards there are; which one this is, say with --shard I/N.")
    if not 0 <= index < count:
        raise BatchError(f"There is no shard {index} of {count}: they are counted from 0 to {count - 1}.")
    return Shard(index, count)


def plan(rows: Sequence[Row], overrides: Mapping[str, Any] | None = None, seed: int = 0) -> list[Request]:
    """The requests of all ``rows`` with ``overrides`` on top.

    A seed that is -1 or absent is drawn from ``seed`` and what the row says: neither the order of the rows nor a
    resumption changes it, and rows that say the same (the second, the third such one) get different seeds.
    """
    seen: dict[str, int] = {}
    requests = []
    for row in rows:
        body = {**row.body, **{key: value for key, value in (overrides or {}).items() if key != OVERRIDES}}
        if own := (overrides or {}).get(OVERRIDES):
            body[OVERRIDES] = {**(body.get(OVERRIDES) or {}), **own}
        said = canonical(body)
        again = seen[said] = seen.get(said, -1) + 1
        for number, field in enumerate(("seed", "subseed")):
            if body.get(field) in (None, -1, "-1"):
                body[field] = _drawn(f"{seed}\n{again}\n{number}\n{said}")
        kind: Kind = "img2img" if body.get("init_images") is not None else "txt2img"
        requests.append(Request(row.number, kind, body, row.label))
    return requests


def _drawn(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % SEEDS


def problem(request: Request, pictures: PictureFolder, settings: Settings | None) -> ServiceError | None:
    """Why ``request`` cannot be made, as far as it can be told without a model; None if nothing speaks against it.

    ``settings`` are those of the service that will make it; None where another machine has them.
    """
    try:
        body = validated(request.kind, request.body)
        pictures.check(request.body)
        check_scripts(body, request.kind)
        options = Options(checked(body.override_settings or {}))
        if settings is not None and not body.infotext:
            if isinstance(body, Txt2ImgBody):
                translate.txt2img(body, options, settings)
            else:
                check_limits(translate.common(body, options, settings), settings)
    except ServiceError as error:
        return error
    return None


def validated(kind: Kind, body: Mapping[str, Any]) -> GenerationBody:
    """The API's own body of a row. Raises :class:`BadRequest` that names the field."""
    parsed = Txt2ImgBody if kind == "txt2img" else Img2ImgBody
    try:
        return parsed.model_validate(dict(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{where} is {str(first['input'])[:60]!r}: {first['msg'].lower()}.") from None
