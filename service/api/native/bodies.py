"""The bodies of the native endpoints: A1111's fields, all of them, and what belongs to a stream."""

from typing import Any

from pydantic import Field

from service.api.sdapi.extras import ExtrasBody
from service.api.sdapi.fields import Float, Int, Picture
from service.api.sdapi.schemas import GenerationBody, Img2ImgBody, Txt2ImgBody


class GenerateBody(Img2ImgBody, Txt2ImgBody):
    """The fields of txt2img, and with ``init_images`` those of img2img; and how often to send a preview."""

    denoising_strength: Float | None = None
    preview_every: Int = Field(0, ge=0, le=1000, description="A preview with every N-th step; 0 for none.")

    def as_a1111(self) -> GenerationBody:
        """The same request with the defaults of txt2img, or of img2img where it has images."""
        kind: type[GenerationBody] = Img2ImgBody if self.init_images else Txt2ImgBody
        sent: dict[str, Any] = {
            name: getattr(self, name) for name in self.model_fields_set if name in kind.model_fields
        }
        return kind.model_validate(sent)


class UpscaleBody(ExtrasBody):
    """The fields of extra-batch-images, with plain base64 in ``images``."""

    images: list[Picture] = Field(min_length=1)
