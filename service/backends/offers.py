"""What upstreams have to draw with, and who has what a job names.

Known is what they last told, or what a models folder mounted here holds: nobody is woken to be asked.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from service.catalogue.catalogue import Catalogue, find_checkpoint
from service.core.errors import BadRequest, UnknownName
from service.core.jobs import Job, Upscale, requests_of
from service.core.records import CheckpointInfo


class Offers:
    """Of the upstreams ``names``, the first one the default. ``on_catalogue`` is called with what one of them tells."""

    def __init__(self, names: Iterable[str], on_catalogue: Callable[[str, Catalogue], None]) -> None:
        self._names = tuple(names)
        self._on_catalogue = on_catalogue
        self._catalogues: dict[str, Catalogue] = {}
        self._own: Catalogue | None = None

    def know(self, name: str, catalogue: Catalogue) -> None:
        """What was known of an upstream before this process began; what it told since is newer."""
        self._catalogues.setdefault(name, catalogue)

    def learn(self, name: str, catalogue: Catalogue) -> None:
        """What an upstream tells now."""
        self._catalogues[name] = catalogue
        self._on_catalogue(name, catalogue)

    def mount(self, own: Catalogue | None) -> None:
        """What a models folder mounted here holds; it wins over what upstreams tell. None: there is no folder."""
        self._own = own

    def heard_of(self, name: str) -> bool:
        """Whether it is known what the upstream ``name`` has."""
        return name in self._catalogues

    @property
    def catalogue(self) -> Catalogue:
        """Of all upstreams together: from the models folder here, or from what they last told."""
        if self._own is not None:
            # Their titles have the hashes, which a front does not compute.
            told = {info.name: info for one in self._catalogues.values() for info in one.checkpoints}
            checkpoints = tuple(told.get(info.name, info) for info in self._own.checkpoints)
            return replace(self._own, checkpoints=checkpoints)
        known = [self._catalogues.get(name) or _unknown(name) for name in self._names]
        return known[0] if len(known) == 1 else _joined(known)

    def choose(self, job: Job[Any]) -> str:
        """The upstream that has all that ``job`` names. Raises :class:`BadRequest` that says who has what."""
        names = self._names
        if isinstance(job, Upscale):
            able = [name for name in names if self._has_upscaler(name, job.upscaler)]
            return (able or names)[0]
        wanted = _wanted(job)
        if not wanted or len(names) == 1:
            return names[0]
        silent = [name for name in names if name not in self._catalogues]
        for name, known in self._catalogues.items():
            if all(_has(known.checkpoints, title) for title in wanted):
                return name
        if silent and self._own is None:
            return next((name for name in silent if name in wanted), silent[0])
        offers = "; ".join(
            f"{name} has {', '.join(info.title for info in known.checkpoints)}"
            for name, known in self._catalogues.items()
        )
        raise BadRequest(
            f"No upstream has all of {', '.join(wanted)}: {offers or 'none has told what it has'}."
        )

    def _has_upscaler(self, name: str, upscaler: str) -> bool:
        known = self._catalogues.get(name)
        return known is not None and any(one.name == upscaler for one in known.upscalers)


def _wanted(job: Job[Any]) -> list[str]:
    """The checkpoints that ``job`` names."""
    return sorted(
        {
            name
            for one in requests_of(job)
            for name in (one.checkpoint, one.refiner_checkpoint, one.hires.checkpoint if one.hires else None)
            if name
        }
    )


def _has(infos: Sequence[CheckpointInfo], name: str) -> bool:
    """Whether one of ``infos`` goes by ``name``."""
    try:
        find_checkpoint(infos, name)
    except UnknownName:
        return False
    return True


def _unknown(name: str) -> Catalogue:
    """What is said of an upstream that was never heard of: its name in the settings."""
    return Catalogue((CheckpointInfo(name, name, name),), complete=False)


def _joined(catalogues: Sequence[Catalogue]) -> Catalogue:
    """Everything, in order; what two have by the same name is the first one's."""

    def once(field: str, key: str) -> tuple[Any, ...]:
        found: dict[str, Any] = {}
        for one in catalogues:
            for item in getattr(one, field):
                found.setdefault(getattr(item, key), item)
        return tuple(found.values())

    return Catalogue(
        once("checkpoints", "title"),
        once("vaes", "name"),
        once("loras", "name"),
        once("embeddings", "name"),
        once("upscalers", "name"),
        catalogues[0].device,
        complete=all(one.complete for one in catalogues),
    )
