"""What the shipped model draws through this project's engine: with every sampler, and from another picture."""

from dataclasses import replace

import numpy as np
import pytest

from service.catalogue.samplers import SAMPLERS
from service.core.cancel import CancelToken
from service.core.generation import GenerationRequest, InitImage
from service.core.pixels import Pixels
from service.engine.engine import DiffusersEngine
from service.settings import Settings
from tests.demo_model.thumbnails import Thumbnails

REQUEST = GenerationRequest(prompt="an octopus", seed=3, steps=20, width=512, height=512)


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    made = DiffusersEngine(Settings.read(warmup_steps=1, warmup_size=64, cpu_threads=1))
    made.load(lambda sentence, part=None, seconds=0.0: None)
    return made


def draw(engine: DiffusersEngine, request: GenerationRequest) -> Pixels:
    return engine.generate(request, CancelToken(), lambda progress: None).images[0]


@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS])
def test_every_sampler_draws_what_was_asked_for(
    engine: DiffusersEngine, thumbnails: Thumbnails, sampler: str
) -> None:
    assert thumbnails.nearest(draw(engine, replace(REQUEST, sampler=sampler))) == "octopus"


def test_img2img_at_half_strength_keeps_the_layout(engine: DiffusersEngine) -> None:
    start = draw(engine, replace(REQUEST, prompt="a red apple on a white background"))
    changed = draw(
        engine,
        replace(REQUEST, prompt="a peach on a white background", seed=8, init=InitImage((start,), 0.5)),
    )

    def small(picture: Pixels) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return picture.reshape(16, 32, 16, 32, 3).mean(axis=(1, 3)).ravel()

    assert np.corrcoef(small(start), small(changed))[0, 1] > 0.7
    assert not np.array_equal(start, changed)
