"""The plan in a running engine: refusals before the device is touched, measures for one request, sleep."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from service.core.cancel import CancelToken
from service.core.errors import OutOfMemory
from service.core.generation import GenerationRequest, GenerationResult
from service.engine.engine import DiffusersEngine
from service.engine.headroom import Headroom
from service.engine.peaks import process_memory
from service.plan.measures import Measure
from service.plan.platform import MIB
from service.settings import Settings

SMALL = GenerationRequest("a red boat", width=256, height=256, steps=2)
LARGE = GenerationRequest("a red boat", width=768, height=768, steps=1)


def draw(engine: DiffusersEngine, request: GenerationRequest) -> GenerationResult:
    return engine.generate(request, CancelToken(), lambda progress: None)


@pytest.fixture(scope="module")
def loaded() -> DiffusersEngine:
    engine = DiffusersEngine(Settings())
    engine.load(lambda sentence, part=None, seconds=0.0: None)
    return engine


@pytest.fixture
def engine(loaded: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[DiffusersEngine]:
    """With a limit that lets 512×512 through and nothing much larger; what there is isn't looked at again."""
    headroom = loaded._headroom
    assert headroom is not None
    before, allowed = headroom.platform, headroom.allowed
    monkeypatch.setattr(Headroom, "settle", lambda self, resident: None)
    plan = headroom.check(replace(SMALL, width=512, height=512), loaded._paths(SMALL))
    headroom._platform = before.limited_to(plan.peak + 8 * MIB)
    yield loaded
    headroom._platform, headroom.allowed = before, allowed


def test_what_cannot_fit_is_refused_untouched(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._headroom is not None
    engine._headroom.allowed = frozenset()
    first = draw(engine, SMALL).images[0]
    with monkeypatch.context() as patch:
        patch.setattr(DiffusersEngine, "_guarded", lambda *given: pytest.fail("the device was touched"))
        with pytest.raises(OutOfMemory, match=r"768×768 needs .* lower the size \(up to \d+×\d+ fits\)"):
            draw(engine, LARGE)
        with pytest.raises(OutOfMemory, match="SD_MEASURES"):
            engine.check(LARGE)
        with pytest.raises(OutOfMemory, match="batch_size"):
            engine.check(replace(SMALL, width=512, height=512, batch_size=32))
    assert OutOfMemory.status == 507
    engine.check(SMALL)
    assert np.array_equal(draw(engine, SMALL).images[0], first)


def test_what_the_operator_allows_is_served_with_the_next_measure(engine: DiffusersEngine) -> None:
    headroom = engine._headroom
    assert headroom is not None
    plan = headroom.check(LARGE, engine._paths(LARGE))
    assert plan.fits
    assert plan.measures
    assert Measure.FP8_WEIGHTS not in plan.measures
    saved = draw(engine, LARGE).images[0]
    assert not engine.get().vae.use_tiling, "gone with the request"
    headroom._platform = headroom.platform.limited_to(0)
    plain = draw(engine, LARGE).images[0]
    difference = np.abs(saved.astype(int) - plain.astype(int))
    assert difference.mean() < 2
    assert np.percentile(difference, 99) < 24


def test_peaks_are_planned_and_measured(loaded: DiffusersEngine) -> None:
    assert process_memory() > 0
    numbers = loaded.device_memory()
    draw(loaded, LARGE)
    after = loaded.device_memory()
    assert after["plan_peak"] > numbers["plan_base"] > 0
    assert after["plan_limit"] > after["plan_peak"]
    # Where memory is plenty malloc keeps what was freed: at least what was planned, and not twice as much.
    assert 0.8 * after["plan_peak"] < after["measured_peak"] < 3 * after["plan_peak"]
    assert loaded.catalogue().device.plan
    assert loaded.catalogue().device.measures == ()


def test_unloaded_weights_come_back_as_they_were(loaded: DiffusersEngine) -> None:
    first = draw(loaded, SMALL).images[0]
    assert loaded.sleep() == "memory"  # on a CPU they are there anyway
    loaded.unload()
    assert np.array_equal(draw(loaded, SMALL).images[0], first)


def test_measures_that_are_asked_for_are_always_on() -> None:
    engine = DiffusersEngine(Settings(measures="vae-small-tiles,guidance-in-turns"))
    engine.load(lambda sentence, part=None, seconds=0.0: None)
    assert engine._headroom is not None
    plan = engine._headroom.check(SMALL, engine._paths(SMALL))
    assert plan.measures == {Measure.VAE_SMALL_TILES, Measure.GUIDANCE_IN_TURNS}
    assert draw(engine, SMALL).images[0].std() > 0
