"""Jobs, events and results as MessagePack: what travels between a front and the services behind it.

A picture is a map of its shape and its bytes, uncompressed: it is encoded once, where its file is made. What
comes in is checked against the types of the dataclasses, and every array against its own size.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from service.catalogue.catalogue import Catalogue
from service.core import jobs
from service.core.cancel import CancelCause
from service.core.errors import BadRequest
from service.core.generation import GenerationResult
from service.core.jobs import Job
from service.core.pixels import Pixels
from service.core.records import CheckpointInfo

VERSION: Final = 2
"""Of the contract between front and upstream; another number is refused with a sentence."""

MEDIA_TYPE: Final = "application/vnd.knative-diffusion.events"
"""Of the stream that answers a job: see :mod:`service.backends.frames`."""

T = TypeVar("T")


KINDS: Final[Mapping[str, type[Job[Any]]]] = {
    "generate": jobs.Generate,
    "series": jobs.Series,
    "upscale": jobs.Upscale,
    "caption": jobs.Caption,
    "load_checkpoint": jobs.LoadCheckpoint,
    "refresh": jobs.Refresh,
    "unload": jobs.Unload,
}
"""Every kind of job by its name on the wire."""

_NAMES: Final = {kind: name for name, kind in KINDS.items()}

_RESULTS: Final[Mapping[type[Job[Any]], Any]] = {
    jobs.Generate: tuple[GenerationResult, ...],
    jobs.Series: tuple[GenerationResult, ...],
    jobs.Upscale: jobs.Upscaled,
    jobs.Caption: str,
    jobs.LoadCheckpoint: CheckpointInfo,
    jobs.Refresh: None,
    jobs.Unload: None,
}


@dataclass(frozen=True, slots=True)
class Order:
    """A job as it is sent: ``POST /v1/jobs``. ``seconds`` are left until its deadline."""

    version: int
    kind: str
    task_id: str
    seconds: float
    job: bytes
    catalogue: str = ""
    """The digest of the catalogue that the sender knows: another one is told with ``started``."""
    refresh: bool = False
    """Look at the models folder first."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the device is busy with: one frame of the answer. ``event`` says which of the fields count.

    ``queued`` (position), ``started`` (control, token, served_by, catalogue), ``progress``, ``waiting`` (nothing new:
    the connection lives), and at last ``result`` or ``error``.
    """

    event: str
    position: int = 0
    control: str = ""
    """The address of the pod itself, to which :class:`Control` can be posted past every proxy; "" where unknown."""
    token: str = ""
    served_by: str = ""
    digest: str = ""
    catalogue: Catalogue | None = None
    progress: bytes = b""
    result: bytes = b""
    seconds: Mapping[str, float] | None = None
    """Seconds by stage; with ``result``."""
    cold_start: bool = False
    memory: Mapping[str, int] | None = None
    status: int = 0
    code: str = ""
    blame: str = ""
    detail: str = ""
    retry_after: int | None = None
    cause: CancelCause | None = None
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Control:
    """``POST /v1/jobs/control`` at the pod itself: stop or skip the task that ``token`` belongs to."""

    token: str
    action: str


def _enc_hook(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"shape": value.shape, "data": np.ascontiguousarray(value).data.cast("B")}
    raise NotImplementedError(f"{type(value).__name__} has no form on the wire")


def _dec_hook(kind: type, value: Any) -> Any:
    if "numpy" not in str(kind):
        raise NotImplementedError(f"{kind} has no form on the wire")
    shape, data = value["shape"], value["data"]
    sides = [side for side in shape if isinstance(side, int) and 0 <= side <= 65_536]
    if len(sides) != len(shape) or len(shape) not in (2, 3) or prod(sides) != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    pixels: Pixels = np.frombuffer(data, np.uint8).reshape(shape)
    return pixels


class Digest:
    """The digest of a catalogue, worked out again only when it is another: the networks' metadata are megabytes."""

    def __init__(self) -> None:
        self._last: tuple[Catalogue, str] | None = None

    def of(self, catalogue: Catalogue) -> str:
        """32 hexadecimal digits that change with anything in it. May be called from any thread."""
        last = self._last
        if last is None or last[0] != catalogue:
            last = self._last = catalogue, hashlib.sha256(pack(catalogue)).hexdigest()[:32]
        return last[1]


_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_enc_hook)


def pack(value: Any) -> bytes:
    """``value`` as MessagePack."""
    return _ENCODER.encode(value)


def unpack(data: bytes, kind: type[T]) -> T:
    """A ``kind`` from MessagePack. Raises :class:`BadRequest` for anything else."""
    try:
        return msgspec.msgpack.decode(data, type=kind, dec_hook=_dec_hook)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
        raise BadRequest(f"What was sent is no {kind.__name__} of version {VERSION}: {error}.") from None


def to_plain(value: Any) -> Any:
    """``value`` (without pictures) as what JSON can say, to be kept."""
    return msgspec.to_builtins(value)


def from_plain(value: Any, kind: type[T]) -> T:
    """A ``kind`` from what :func:`to_plain` made. Raises :class:`BadRequest` for anything else."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(f"What was kept is no {kind.__name__}: {error}.") from None


def name_of(job: Job[Any]) -> str:
    """The name of a job's kind."""
    return _NAMES[type(job)]


def read_job(order: Order) -> Job[Any]:
    """The job of ``order``. Raises :class:`BadRequest` for another version or an unknown kind."""
    if order.version != VERSION:
        raise BadRequest(
            f"The job is of version {order.version} of the contract, this service speaks {VERSION}: "
            "run the same release on both sides."
        )
    kind = KINDS.get(order.kind)
    if kind is None:
        raise BadRequest(f"There is no job of kind {order.kind[:40]!r}: use one of {', '.join(KINDS)}.")
    return unpack(order.job, kind)


def read_result(job: Job[Any], raw: bytes) -> Any:
    """The result of ``job``. Raises :class:`BadRequest` for what is none."""
    kind = _RESULTS[type(job)]
    return None if kind is None else unpack(raw, kind)
