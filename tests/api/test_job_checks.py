"""A job from a front is believed no more than a client's request: what is not possible is refused with a sentence."""

import numpy as np
import pytest

from service.api.native.jobs import checked
from service.catalogue.catalogue import Catalogue
from service.core.errors import BadRequest
from service.core.jobs import Upscale
from service.core.records import CheckpointInfo, UpscalerInfo
from service.settings import Settings

CATALOGUE = Catalogue((CheckpointInfo("m", "m", "m"),), upscalers=(UpscalerInfo("Lanczos"),))
PICTURE = np.zeros((10, 20, 3), np.uint8)


def enlarging(
    *factors: float, size: tuple[int, int] = (40, 20), images: int = 1, share: float = 0.0
) -> Upscale:
    return Upscale((PICTURE,) * images, (size,) * images, "Lanczos", None, share, factors)


@pytest.mark.parametrize("job", [enlarging(), enlarging(2.0), enlarging(2.0, 2.1, images=2), enlarging(0.5)])
def test_what_can_be_made_is_taken(job: Upscale) -> None:
    assert checked(job, Settings.read(), CATALOGUE) is job


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        (enlarging(1e9), "cannot be enlarged"),
        (enlarging(float("inf")), "cannot be enlarged"),
        (enlarging(float("nan")), "cannot be enlarged"),
        (enlarging(0.0), "cannot be enlarged"),
        (enlarging(2.0, 2.0), "a factor for each image"),
        (enlarging(2.0, images=2), "a factor for each image"),
        (enlarging(size=(0, 20)), "cannot be enlarged"),
        (enlarging(size=(10**6, 10**6)), "SD_MAX_IMAGE_PIXELS"),
        (enlarging(share=2.0), "share"),
    ],
)
def test_what_cannot_be_made_is_refused(job: Upscale, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        checked(job, Settings.read(), CATALOGUE)
