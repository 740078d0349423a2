"""What OpenAI's clients send, and what of it this service knows: sizes, qualities, formats and names of models."""

import random
import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.api import pictures
from service.catalogue.catalogue import Catalogue
from service.core.errors import BadRequest, NotFound, UnknownName
from service.core.generation import GenerationRequest
from service.imaging.formats import Encoding

_STEPS: Final = {"low": 10, "standard": 20, "medium": 20, "auto": 20, "high": 30, "hd": 30}
_THEIRS: Final = re.compile(r"(dall-e-|gpt-image-|chatgpt-image-).*")
"""Names that many clients send whatever the server: the default checkpoint is meant."""


def _given(value: Any) -> Any:
    """Forms and careless clients send "" for what they leave out."""
    return None if value == "" else value


Quality = Annotated[
    Literal["auto", "low", "medium", "high", "standard", "hd"] | None, BeforeValidator(_given)
]
Format = Annotated[Literal["png", "jpeg", "webp"] | None, BeforeValidator(_given)]
Whole = Annotated[int | None, BeforeValidator(_given)]
Text = Annotated[str | None, BeforeValidator(_given)]


class ImagesBody(BaseModel):
    """The fields of generations and edits; unknown ones are ignored, as there.

    ``negative_prompt``, ``seed``, ``steps`` and ``guidance_scale`` are this service's own (``extra_body`` of the Python
    client). ``style``, ``background`` and ``moderation`` have no meaning here.
    """

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1)
    model: Text = None
    n: Whole = Field(None, ge=1, le=10)
    size: Text = Field(None, description="auto, or WIDTHxHEIGHT in multiples of 8.")
    quality: Quality = Field(None, description="Sampler steps: low 10, medium 20, high 30.")
    response_format: Text = None
    output_format: Format = None
    output_compression: Whole = Field(None, ge=0, le=100)
    user: Text = None
    stream: bool | None = None
    partial_images: Whole = Field(None, ge=0, le=3)
    negative_prompt: Text = None
    seed: Whole = Field(None, ge=0, lt=2**63)
    steps: Whole = Field(None, ge=1)
    guidance_scale: Annotated[float | None, BeforeValidator(_given)] = None

    @property
    def encoding(self) -> Encoding:
        """The files that are wanted. Raises :class:`BadRequest` for addresses: pictures are not kept here."""
        if self.response_format not in (None, "b64_json"):
            raise BadRequest(
                "response_format must be b64_json: pictures are sent, and not kept under an address."
            )
        kind = {"jpeg": "jpg", "webp": "webp"}.get(self.output_format or "png", "png")
        return Encoding(format=kind, quality=self.output_compression or 90)  # type: ignore[arg-type]

    @property
    def dimensions(self) -> tuple[int, int]:
        """Width and height. Raises :class:`BadRequest`."""
        if self.size in (None, "auto"):
            return 512, 512
        matched = re.fullmatch(r"(\d{1,5})x(\d{1,5})", self.size or "")
        if matched is None:
            raise BadRequest(f"size is {(self.size or '')[:40]!r}, but must be auto or like 512x768.")
        return int(matched[1]), int(matched[2])

    def request(self, catalogue: Catalogue) -> GenerationRequest:
        """What is to be made. Raises :class:`BadRequest`."""
        width, height = self.dimensions
        steps = self.steps or _STEPS[self.quality or "auto"]
        return GenerationRequest(
            self.prompt,
            self.negative_prompt or "",
            seed=random.randrange(2**32) if self.seed is None else self.seed,
            steps=steps,
            guidance_scale=7.0 if self.guidance_scale is None else self.guidance_scale,
            width=width,
            height=height,
            batch_count=self.n or 1,
            sampler=pictures.DEFAULT_SAMPLER,
            checkpoint=checkpoint_of(self.model, catalogue),
            preview_every=max(1, steps // (self.partial_images + 1))
            if self.stream and self.partial_images
            else 0,
        )


def checkpoint_of(model: str | None, catalogue: Catalogue) -> str | None:
    """The checkpoint that ``model`` means; None for the default one. Raises :class:`NotFound`."""
    if model is None:
        return None
    try:
        return catalogue.find(model).title
    except UnknownName:
        if _THEIRS.fullmatch(model):
            return None
        known = ", ".join(info.name for info in catalogue.checkpoints)
        raise NotFound(f"The model {model[:100]!r} does not exist here. Use one of: {known}.") from None
