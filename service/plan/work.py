"""What is asked for, as far as memory goes."""

from dataclasses import dataclass

from service.catalogue.upscalers import BUILT_IN, LATENT_MODES
from service.core.generation import GenerationRequest
from service.plan.networks.upscaler import Upscaler

_CHARACTERS_A_CHUNK = 220
"""A chunk of a prompt has 75 tokens; most tokens are three to five characters of English."""


@dataclass(frozen=True, slots=True)
class Work:
    """One batch of images: its size in pixels, and the passes that make it."""

    width: int
    height: int
    batch: int = 1
    images: int = 0
    """All images of the request, over its batches; 0: those of one batch."""
    guided: int = 1
    """Rows of the UNet for each image besides the negative prompt's: one for each part of a prompt with AND."""
    negative: bool = True
    """False without guidance (scale 1): the negative prompt takes no row."""
    chunks: int = 1
    hires: tuple[int, int] | None = None
    hires_in_pixels: bool = False
    """The second pass begins with pixels: decoded, enlarged, encoded again."""
    starts_from_image: bool = False
    inpaints: bool = False
    upscaler: Upscaler | None = None
    networks: int = 0
    """Bytes of weights kept aside because LoRA networks change them."""

    @property
    def rows(self) -> int:
        """Rows of the UNet's largest call."""
        return self.batch * (self.guided + (1 if self.negative else 0))

    @property
    def count(self) -> int:
        """Images that come out."""
        return self.images or self.batch

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of each pass."""
        return [(self.width, self.height), *([self.hires] if self.hires else [])]

    def __str__(self) -> str:
        text = f"{self.width}×{self.height}"
        text += f" × {self.batch}" if self.batch > 1 else ""
        return text + (f", then {self.hires[0]}×{self.hires[1]}" if self.hires else "")


def work_of(request: GenerationRequest) -> Work:
    """What a request asks for."""
    hires, init = request.hires, request.init
    prompts = [request.prompt, request.negative_prompt]
    if hires is not None:
        prompts += [hires.prompt or "", hires.negative_prompt or ""]
    parts = max(prompt.count(" AND ") for prompt in prompts) + 1
    return Work(
        width=request.width,
        height=request.height,
        batch=request.batch_size,
        images=request.image_count,
        guided=parts,
        negative=request.guidance_scale != 1.0 or parts > 1,
        chunks=max(1 + len(prompt) // _CHARACTERS_A_CHUNK for prompt in prompts),
        hires=None if hires is None else (hires.width, hires.height),
        hires_in_pixels=hires is not None and hires.upscaler not in LATENT_MODES,
        starts_from_image=init is not None,
        inpaints=init is not None and init.mask is not None,
        upscaler=Upscaler()
        if hires is not None and hires.upscaler not in (*LATENT_MODES, *BUILT_IN)
        else None,
    )
