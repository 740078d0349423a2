"""The engine on the shipped model: what comes out depends on the request alone."""

import numpy as np
import pytest

from service.catalogue.samplers import SAMPLERS, SCHEDULERS
from service.core.cancel import CancelToken
from service.core.errors import Cancelled, OutOfMemory, UnknownName
from service.core.events import Progress
from service.core.generation import GenerationRequest, GenerationResult, HiresFix, InitImage
from service.engine.engine import DiffusersEngine
from service.settings import Settings

SMALL = GenerationRequest(prompt="pretty dog", seed=5, steps=4, width=128, height=128)


def news(sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    """The real engine with the shipped model."""
    made = DiffusersEngine(Settings.read(warmup_steps=1, warmup_size=64))
    made.load(news)
    return made


def run(
    engine: DiffusersEngine, request: GenerationRequest, token: CancelToken | None = None
) -> GenerationResult:
    return engine.generate(request, token or CancelToken(), lambda progress: None)


def with_(request: GenerationRequest = SMALL, **changes: object) -> GenerationRequest:
    from dataclasses import replace

    return replace(request, **changes)  # type: ignore[arg-type]


def test_the_same_seed_makes_the_same_image_and_another_seed_another(engine: DiffusersEngine) -> None:
    first, again = run(engine, SMALL), run(engine, SMALL)
    assert np.array_equal(first.images[0], again.images[0])
    other = run(engine, with_(seed=6))
    assert not np.array_equal(first.images[0], other.images[0])


@pytest.mark.parametrize("step", [0, 1, 2, 3])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ SDE"])
def test_after_a_cancel_at_any_step_the_next_image_is_that_of_a_fresh_process(
    engine: DiffusersEngine, step: int, sampler: str
) -> None:
    request = with_(sampler=sampler, tiling=True)
    fresh = run(engine, SMALL).images[0]
    token = CancelToken()

    def cancel_at(progress: Progress) -> None:
        if progress.stage == "denoising" and progress.step == step:
            token.cancel("disconnect")

    with pytest.raises(Cancelled):
        engine.generate(request, token, cancel_at)
    assert np.array_equal(run(engine, SMALL).images[0], fresh)


def test_an_interrupt_answers_with_what_there_is(engine: DiffusersEngine) -> None:
    token = CancelToken()

    def interrupt(progress: Progress) -> None:
        if progress.step == 2:
            token.cancel("interrupt")

    result = engine.generate(with_(batch_count=3), token, interrupt)
    assert result.interrupted
    assert len(result.images) == 1


def test_a_skip_goes_on_with_the_next_batch(engine: DiffusersEngine) -> None:
    token, seen = CancelToken(), []

    def skip_first(progress: Progress) -> None:
        seen.append(progress.job_no)
        if progress.step == 1 and progress.job_no == 0:
            token.skip()

    result = engine.generate(with_(batch_count=2), token, skip_first)
    assert len(result.images) == 2
    assert not result.interrupted
    assert np.array_equal(result.images[1], run(engine, with_(seed=6)).images[0])


def test_a_batch_makes_what_single_requests_make(engine: DiffusersEngine) -> None:
    batch = run(engine, with_(batch_size=2, sampler="Euler a"))
    assert batch.seeds == (5, 6)
    for image, seed in zip(batch.images, batch.seeds, strict=True):
        alone = run(engine, with_(seed=seed, sampler="Euler a")).images[0]
        # Sums in another order differ in the last bit.
        assert np.abs(image.astype(int) - alone.astype(int)).max() <= 2


@pytest.mark.parametrize(("width", "height"), [(64, 64), (72, 200), (200, 72), (256, 128), (136, 136)])
def test_any_multiple_of_8(engine: DiffusersEngine, width: int, height: int) -> None:
    image = run(engine, with_(width=width, height=height, steps=2)).images[0]
    assert image.shape == (height, width, 3)


@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS])
def test_every_sampler_draws(engine: DiffusersEngine, sampler: str) -> None:
    image = run(engine, with_(sampler=sampler, steps=6)).images[0]
    assert image.std() > 3, "one flat colour"


@pytest.mark.parametrize("scheduler", [scheduler.label for scheduler in SCHEDULERS])
def test_every_scheduler_draws(engine: DiffusersEngine, scheduler: str) -> None:
    assert run(engine, with_(scheduler=scheduler)).images[0].std() > 3


def test_hires_fix_makes_the_larger_image(engine: DiffusersEngine) -> None:
    for upscaler in ("Latent", "Lanczos"):
        for strength in (0.0, 0.5, 1.0):
            hires = HiresFix(width=192, height=192, denoising_strength=strength, upscaler=upscaler, steps=2)
            assert run(engine, with_(hires=hires)).images[0].shape == (192, 192, 3)
    with pytest.raises(UnknownName, match="Lanczos"):
        run(engine, with_(hires=HiresFix(192, 192, upscaler="nope")))


def test_img2img_keeps_more_of_the_picture_the_weaker_it_is(engine: DiffusersEngine) -> None:
    start = run(engine, with_(steps=10)).images[0]
    distances = []
    for strength in (0.0, 0.3, 1.0):
        init = InitImage(images=(start,), denoising_strength=strength)
        image = run(engine, with_(seed=99, steps=10, init=init)).images[0]
        distances.append(float(np.abs(image.astype(int) - start.astype(int)).mean()))
    assert distances[0] < distances[1] < distances[2]


def test_inpainting_changes_the_masked_part(engine: DiffusersEngine) -> None:
    start = run(engine, with_(steps=10)).images[0]
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    for fill in (1, 2, 3):
        init = InitImage(images=(start,), denoising_strength=0.9, mask=mask, inpainting_fill=fill)
        image = run(engine, with_(seed=99, steps=6, prompt="a red apple", init=init)).images[0]
        change = np.abs(image.astype(int) - start.astype(int)).mean(axis=2)
        assert change[:, 64:].mean() > change[:, :40].mean()


def test_tiling_leaves_no_trace(engine: DiffusersEngine) -> None:
    before = run(engine, SMALL).images[0]
    tiled = run(engine, with_(tiling=True)).images[0]
    assert not np.array_equal(before, tiled)
    assert np.array_equal(run(engine, SMALL).images[0], before)


def test_previews_come_on_request(engine: DiffusersEngine) -> None:
    shown: list[tuple[int, ...]] = []

    def sink(progress: Progress) -> None:
        if progress.preview is not None:
            shown.append(progress.preview.shape)

    engine.generate(with_(preview_every=2), CancelToken(), sink)
    assert len(shown) == 2
    assert min(shown[0][:2]) >= 128


def test_running_out_of_memory_is_explained_and_survived(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    before = run(engine, SMALL).images[0]
    model = engine.get()

    def exhaust(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.10 GiB. GPU 0 has a total of …")

    with monkeypatch.context() as patch:
        patch.setattr(model.network, "forward", exhaust)
        with pytest.raises(OutOfMemory, match=r"128×128 needs more memory.*7\.10 GiB.*lower the size"):
            run(engine, SMALL)
    assert np.array_equal(run(engine, SMALL).images[0], before)


def test_unknown_checkpoints_are_named(engine: DiffusersEngine) -> None:
    with pytest.raises(UnknownName, match="demo_model"):
        run(engine, with_(checkpoint="nope"))
    current = engine.catalogue().default
    for name in (current.title, current.name, current.short_hash, current.sha256, f"{current.name} [x]"):
        assert name is not None
        assert engine.get(name).info == current
