"""What the tape says, against fake tensors (real sizes) and the CPU allocator's own count (small ones)."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from bench.activations import counted, dressed, traced, unet, vae
from service.catalogue.layouts import configuration
from service.engine.weights import loading
from service.plan.networks.autoencoder import decode_peak, encode_peak
from service.plan.networks.text import text_peak
from service.plan.networks.unet import unet_peak
from service.plan.tape import CPU, Kernels
from service.settings import DEMO_MODEL

WITHIN = 0.02
"""The tape follows the same code; what it leaves out are numbers as small as a time embedding."""

SHAPES_ALONE = Kernels()
"""Fake tensors meet no kernel that takes memory of its own."""


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(("rows", "height", "width"), [(1, 32, 32), (2, 64, 64), (8, 64, 48), (2, 128, 128)])
def test_a_unet_of_real_size_takes_what_the_tape_says(
    family: str, rows: int, height: int, width: int
) -> None:
    config = configuration(family)["unet"]
    planned = unet_peak(config, rows, height, width, 2, kernels=SHAPES_ALONE)
    assert planned == pytest.approx(traced(unet(config, rows, height, width, torch.float16)), rel=WITHIN)


def test_sizes_that_the_levels_do_not_divide() -> None:
    config = configuration("sd1")["unet"]
    planned = unet_peak(config, 2, 65, 51, 2, kernels=SHAPES_ALONE)
    assert planned == pytest.approx(traced(unet(config, 2, 65, 51, torch.float16)), rel=WITHIN)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize(("height", "width"), [(256, 256), (512, 768), (1024, 1024)])
def test_a_vae_of_real_size_takes_what_the_tape_says(family: str, height: int, width: int) -> None:
    config = configuration(family)["vae"]
    for encode, peak in ((False, decode_peak), (True, encode_peak)):
        planned = peak(config, height, width, 2, kernels=SHAPES_ALONE)
        seen = traced(vae(config, height, width, torch.float16, encode=encode))
        assert planned == pytest.approx(seen, rel=WITHIN)


def thin(family: str) -> dict[str, Any]:
    """The same network at a fifth of its width, so that a CPU can run it."""
    config: dict[str, Any] = configuration(family)["unet"]
    config["block_out_channels"] = [each // 5 for each in config["block_out_channels"]]
    config["attention_head_dim"] = (
        8 if family == "sd1" else [4, 8, 16, 16][: len(config["block_out_channels"])]
    )
    config["norm_num_groups"] = 16
    return config


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_allocator_counts_what_the_tape_says(family: str, channels_last: bool) -> None:
    config = thin(family)
    planned = unet_peak(config, 2, 32, 32, 4, kernels=replace(CPU, channels_last=channels_last))
    run = unet(config, 2, 32, 32, torch.float32, channels_last=channels_last)()
    assert planned == pytest.approx(counted(run), rel=0.05)


def test_the_shipped_model_takes_what_the_tape_says() -> None:
    config = {part: json.loads((DEMO_MODEL / part / "config.json").read_text()) for part in ("unet", "vae")}
    assert unet_peak(config["unet"], 2, 32, 32, 4) == pytest.approx(
        counted(unet(config["unet"], 2, 32, 32, torch.float32)()), rel=0.05
    )
    for encode, peak in ((False, decode_peak), (True, encode_peak)):
        seen = counted(vae(config["vae"], 256, 320, torch.float32, encode=encode)())
        assert peak(config["vae"], 256, 320, 4) == pytest.approx(seen, rel=0.05)


@pytest.mark.parametrize(("family", "part"), [("sd1", "text_encoder"), ("sdxl", "text_encoder_2")])
def test_a_text_encoder_takes_about_what_the_tape_says(family: str, part: str) -> None:
    config = configuration(family)[part]
    kind = "CLIPTextModelWithProjection" if part.endswith("2") else "CLIPTextModel"

    def make() -> Callable[[], Any]:
        module = dressed(loading.build(part, kind, config), torch.float16)
        ids = torch.zeros(1, 77, dtype=torch.long)
        return lambda: module(ids, output_hidden_states=True)

    # It is a hundredth of an image's memory: half as much again is near enough.
    assert text_peak(config, 2) == pytest.approx(traced(make), rel=0.5)
