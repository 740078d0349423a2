"""Each measure against the plain network: the same or a known difference, less memory, and no trace after it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.activations import counted, dressed, traced
from service.catalogue.layouts import configuration
from service.engine import measures
from service.engine.weights import loading
from service.plan.architecture import Part
from service.plan.measures import Measure
from service.plan.networks.autoencoder import decode_peak
from service.plan.networks.blocks import Slicing
from service.plan.networks.unet import unet_peak
from service.plan.stages import SLICE, tiled_peak
from service.plan.tape import CPU, Kernels
from tests.plan.test_activations import thin

ROWS, SIDE = 2, 48


def unet(config: dict[str, Any] | None = None, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    return dressed(loading.build("unet", "UNet2DConditionModel", config or thin("sd1")), dtype)


def inputs(
    rows: int = ROWS, side: int = SIDE, width: int = 768, dtype: torch.dtype = torch.float32
) -> Callable[[Any], Any]:
    generator = torch.Generator().manual_seed(2)
    latent = torch.randn(rows, 4, side, side, generator=generator).to(dtype)
    states = torch.randn(rows, 77, width, generator=generator).to(dtype)

    def call(network: Any) -> Tensor:
        with torch.inference_mode():
            return torch.as_tensor(
                network(latent, torch.tensor(7.0), encoder_hidden_states=states, return_dict=False)[0]
            )

    return call


@pytest.mark.parametrize("measure", [Measure.GUIDANCE_IN_TURNS, Measure.ATTENTION_SLICING])
def test_the_unet_computes_the_same_with_less(measure: Measure) -> None:
    network, call = unet(), inputs()
    plain = call(network)
    before = {name: type(each) for name, each in network.attn_processors.items()}
    needed = counted(lambda: call(network))
    with ExitStack() as stack:
        measures.put_on(stack, network, None, frozenset({measure}))
        changed = call(network)
        saved = counted(lambda: call(network))
    assert saved < 0.75 * needed
    assert (changed - plain).abs().max() < 1e-4 * plain.abs().max()
    # Without a trace: the same object's plain forward again, bit for bit.
    assert "forward" not in network.__dict__
    assert {name: type(each) for name, each in network.attn_processors.items()} == before
    assert torch.equal(call(network), plain)
    planned = unet_peak(
        thin("sd1"), 1 if measure is Measure.GUIDANCE_IN_TURNS else ROWS, SIDE, SIDE, 4,
        slicing=Slicing(SLICE if measure is Measure.ATTENTION_SLICING else 0),
    )  # fmt: skip
    assert planned == pytest.approx(saved, rel=0.02)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_slices_of_networks_of_real_size(family: str) -> None:
    config = configuration(family)["unet"]
    config["addition_embed_type"] = None

    def make() -> Callable[[], Any]:
        network = unet(config, torch.float16)
        measures.put_on(ExitStack(), network, None, frozenset({Measure.ATTENTION_SLICING}))
        latent = torch.zeros(2, 4, 128, 128, dtype=torch.float16)
        states = torch.zeros(2, 77, config["cross_attention_dim"], dtype=torch.float16)
        return lambda: network(latent, torch.tensor(7.0), encoder_hidden_states=states, return_dict=False)

    planned = unet_peak(config, 2, 128, 128, 2, slicing=Slicing(SLICE), kernels=Kernels())
    assert planned == pytest.approx(traced(make), rel=0.1)


def vae() -> Any:
    torch.manual_seed(3)
    config = configuration("sd1")["vae"] | {"block_out_channels": [16, 16, 32, 32], "norm_num_groups": 8}
    return dressed(loading.build("vae", "AutoencoderKL", config), torch.float32)


@pytest.mark.parametrize(("measure", "side"), [(Measure.VAE_TILING, 768), (Measure.VAE_SMALL_TILES, 512)])
def test_a_vae_in_tiles_takes_what_is_planned(measure: Measure, side: int) -> None:
    network = vae()
    latent = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(4))

    def decode() -> Tensor:
        with torch.inference_mode():
            return torch.as_tensor(network.decode(latent, return_dict=False)[0])

    plain, needed = decode(), counted(decode)
    with ExitStack() as stack:
        measures.put_on(stack, unet(), network, frozenset({measure}))
        assert decode().shape == plain.shape
        saved = counted(decode)
    assert saved < needed / 1.5
    assert torch.equal(decode(), plain)

    tile = 512 if measure is Measure.VAE_TILING else 256
    planned = tiled_peak(decode_peak, Part("vae", network.config, 0, 0), side, side, 4, CPU, tile)
    assert planned == pytest.approx(saved, rel=0.02)


def test_weights_in_8_bits() -> None:
    network, call = unet(), inputs()
    plain = call(network)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    measures.store_in_8_bits(network, torch.float32)
    assert sum(p.numel() * p.element_size() for p in network.parameters()) < 0.27 * size
    other = call(network)
    # e4m3 keeps three bits of the fraction: a few per cent of the answer.
    assert 0 < (other - plain).abs().mean() < 0.1 * plain.abs().mean() + 1e-3


def test_networks_leave_the_device_and_come_back_as_they_were() -> None:
    parts = {"text_encoder": torch.nn.Linear(4, 4), "unet": unet(), "vae": vae()}
    call = inputs()
    plain = call(parts["unet"])
    residence = measures.Residence(parts, torch.device("cpu"))
    address = next(parts["unet"].parameters()).data_ptr()
    residence.rule = "turns"
    residence.use(measures.TEXT)
    assert next(parts["unet"].parameters()).data_ptr() != address
    assert not residence.asleep
    residence.use(measures.NETWORK)
    assert torch.equal(call(parts["unet"]), plain)
    with torch.no_grad():  # as a LoRA network does, in place
        weight = next(parts["unet"].parameters())
        weight += 0.5
    changed = call(parts["unet"])
    residence.use(measures.VAE)
    residence.use(measures.NETWORK)
    assert torch.equal(call(parts["unet"]), changed)
    with torch.no_grad():
        weight -= 0.5
    residence.sleep()
    slept = residence.asleep
    residence.rule = "all"
    residence.use(measures.TEXT)
    assert (slept, residence.asleep) == (True, False)
    assert torch.allclose(call(parts["unet"]), plain, atol=1e-5)


def test_rows_of_arguments() -> None:
    rows = torch.arange(6.0).reshape(3, 2)
    given = {"a": rows, "b": (rows, None), "c": [torch.tensor(1.0)], "d": "text", "e": torch.zeros(5, 2)}
    first = measures._row_of(given, 1, 3)
    assert first["a"].tolist() == [[2.0, 3.0]]
    assert first["b"][0].tolist() == [[2.0, 3.0]]
    assert first["c"][0].item() == 1.0
    assert first["e"].shape == (5, 2)
