"""On the GPU the pictures are the CPU's: every sampler, each precision; the same bytes each time; nothing stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from service.catalogue.layouts import configuration
from service.catalogue.samplers import SAMPLERS
from service.core.cancel import CancelToken
from service.core.errors import Cancelled
from service.core.events import Progress
from service.core.generation import GenerationRequest, HiresFix, InitImage
from service.core.pixels import Pixels
from service.engine.engine import DiffusersEngine
from service.engine.weights.imports import UNet2DConditionModel
from service.settings import Settings
from tests.gpu.conftest import DEVICE, STANDS_IN, load

SMALL = GenerationRequest(prompt="pretty dog", seed=5, steps=6, width=256, height=256)


def draw(engine: DiffusersEngine, request: GenerationRequest = SMALL) -> Pixels:
    return engine.generate(request, CancelToken(), lambda progress: None).images[0]


def distance(first: Pixels, second: Pixels) -> float:
    """Mean difference of two pictures, in levels of 0..255."""
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


@pytest.mark.parametrize("sampler", [sampler.name for sampler in SAMPLERS])
def test_every_sampler_draws_what_it_draws_on_the_cpu(
    engine: DiffusersEngine, on_cpu: DiffusersEngine, sampler: str
) -> None:
    request = replace(SMALL, sampler=sampler)
    # Half precision: some levels, not another picture.
    assert distance(draw(engine, request), draw(on_cpu, request)) < 6


@pytest.mark.parametrize(("dtype", "levels"), [("float32", 1.0), ("float16", 6.0), ("bfloat16", 12.0)])
def test_each_precision_draws_that_picture(on_cpu: DiffusersEngine, dtype: str, levels: float) -> None:
    if STANDS_IN and dtype == "float16":
        pytest.skip("a CPU does not compute in float16")
    assert distance(draw(load(dtype=dtype)), draw(on_cpu)) < levels


def test_the_same_seed_makes_the_same_bytes(engine: DiffusersEngine) -> None:
    first = draw(engine)
    assert np.array_equal(first, draw(engine))
    assert np.array_equal(first, draw(load()))


@pytest.mark.parametrize("step", [0, 2, 5])
def test_after_a_cancel_the_next_picture_is_right(engine: DiffusersEngine, step: int) -> None:
    fresh = draw(engine)
    token = CancelToken()

    def sink(progress: Progress) -> None:
        if progress.stage == "denoising" and progress.step == step:
            token.cancel("disconnect")

    with pytest.raises(Cancelled):
        engine.generate(replace(SMALL, sampler="Euler a"), token, sink)
    assert np.array_equal(draw(engine), fresh)


def test_hires_and_img2img_work(engine: DiffusersEngine, on_cpu: DiffusersEngine) -> None:
    start = draw(on_cpu)
    requests = [
        replace(SMALL, hires=HiresFix(320, 320, 0.5, "Latent", 4)),
        replace(SMALL, init=InitImage((start,), 0.6)),
    ]
    for request in requests:
        assert distance(draw(engine, request), draw(on_cpu, request)) < 8


def test_networks_come_off_to_the_bit_and_checkpoints_change(tmp_path: Path) -> None:
    for name in ("checkpoints", "loras"):
        (tmp_path / name).mkdir()
    torch.manual_seed(1)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
    lora = {f"{layer}.lora_down.weight": torch.randn(4, 256), f"{layer}.lora_up.weight": torch.randn(160, 4)}
    save_file(lora, tmp_path / "loras/one.safetensors")
    source = Path(Settings.read().model)
    copy = tmp_path / "checkpoints/copy"
    for file in (path for path in source.rglob("*") if path.suffix in (".json", ".safetensors", ".txt")):
        target = copy / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    engine = load(models_dir=tmp_path)
    plain = draw(engine)
    assert not np.array_equal(draw(engine, replace(SMALL, prompt="pretty dog <lora:one:1>")), plain)
    assert np.array_equal(draw(engine), plain)
    assert np.array_equal(draw(engine, replace(SMALL, checkpoint="copy")), plain)
    engine.unload()
    assert np.array_equal(draw(engine), plain)


@pytest.mark.cuda
@pytest.mark.parametrize(("family", "side"), [("sd1", 512), ("sdxl", 1024)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unets_of_full_size_answer_as_in_single_precision(family: str, side: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    with DEVICE:
        unet = UNet2DConditionModel.from_config(configuration(family)["unet"]).eval().requires_grad_(False)
    config, cells = unet.config, side // 8
    sample = torch.randn(2, config.in_channels, cells, cells, device=DEVICE)
    states = torch.randn(2, 77, config.cross_attention_dim, device=DEVICE)
    added = None
    if family == "sdxl":
        sizes = torch.tensor([[side, side, 0.0, 0.0, side, side]], device=DEVICE).repeat(2, 1)
        added = {"text_embeds": torch.randn(2, 1280, device=DEVICE), "time_ids": sizes}

    def answer(kind: torch.dtype) -> torch.Tensor:
        more = None if added is None else {name: value.to(kind) for name, value in added.items()}
        with torch.inference_mode():
            return unet.to(kind)(
                sample.to(kind), torch.tensor(500, device=DEVICE), states.to(kind), added_cond_kwargs=more
            ).sample.float()

    half = answer(dtype)  # first: afterwards the weights have lost their digits to it either way
    whole = answer(torch.float32)
    assert torch.isfinite(half).all()
    error = (half - whole).norm() / whole.norm()
    assert error < (0.02 if dtype is torch.float16 else 0.1)


@pytest.mark.cuda
def test_xformers_draws_the_same_picture() -> None:
    pytest.importorskip("xformers")
    assert distance(draw(load(attention="xformers")), draw(load(attention="sdpa"))) < 3
