"""The events of the streaming endpoint, version 1: a contract that other programs speak.

A stream is: ``queued`` (zero or more, each time the position changes), ``started`` (once), ``progress`` (one a
sampler step), then exactly one ``result`` or ``error``. While nothing happens a comment line is sent every ten
seconds. Fields may be added within version 1; none changes its meaning or goes away.
"""

from typing import Any, Final, Literal

from pydantic import BaseModel, Field

VERSION: Final = 1
HEARTBEAT: Final = 10.0
"""Seconds of silence after which a comment is sent, so that proxies keep the connection."""


class QueuedEvent(BaseModel):
    """The request waits for the device."""

    version: Literal[1] = VERSION
    task_id: str
    position: int = Field(description="Requests that stand before this one, the running one included.")


class StartedEvent(BaseModel):
    """The request has the device now."""

    version: Literal[1] = VERSION
    task_id: str
    waited: float = Field(description="Seconds from arrival until now.")


class ProgressEvent(BaseModel):
    """A sampler step is done."""

    task_id: str
    step: int = Field(description="Sampler steps done in the running batch and pass.")
    steps: int
    image_index: int = Field(description="Index of the first image of the running batch.")
    progress: float = Field(ge=0, le=1, description="Over the whole request.")
    eta: float | None = Field(description="Seconds left at the pace so far; null before the first step.")
    stage: str
    preview: str | None = Field(
        None, description="A small image as a data: URI, with every preview_every-th step."
    )


class ResultEvent(BaseModel):
    """The images are done. The same fields as the plain JSON answer."""

    version: Literal[1] = VERSION
    task_id: str
    images: list[str] = Field(description="Base64 without a data: prefix.")
    media_type: str = Field(description="Of the files in images, e.g. image/png.")
    seeds: list[int]
    infotexts: list[str]
    parameters: dict[str, Any] = Field(description="The request with every default filled in.")
    info: str = Field(description="A1111's info: a JSON string.")
    timings: dict[str, float] = Field(description="Seconds by stage.")
    cold_start: bool = Field(description="True for the first image that the serving process made.")
    served_by: str = Field(description="Name of the serving pod.")


class UpscaledEvent(BaseModel):
    """Images were enlarged."""

    version: Literal[1] = VERSION
    task_id: str
    images: list[str] = Field(description="Base64 without a data: prefix.")
    media_type: str = Field(description="Of the files in images, e.g. image/png.")
    info: str = Field(description="What was done, in the words of A1111's infotext.")
    timings: dict[str, float] = Field(description="Seconds by stage.")
    served_by: str = Field(description="Name of the serving pod.")


class ErrorEvent(BaseModel):
    """The request failed; nothing follows. ``status`` is the HTTP status a plain request would have got."""

    version: Literal[1] = VERSION
    task_id: str
    status: int
    code: str = Field(description="Stable name of the kind of error, e.g. queue_full.")
    blame: str = Field(description="client, server or model.")
    detail: str = Field(description="One sentence: what is wrong and what to do.")
    retry_after: int | None = Field(None, description="Seconds after which a new attempt may succeed.")
