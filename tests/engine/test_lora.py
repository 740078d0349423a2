"""LoRA networks on weights: the change is peft's, every file format finds its layers, and nothing stays behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import lora_conversion_utils as theirs
from torch import Tensor, nn

from service.engine.families.stable_diffusion import StableDiffusion as Model
from service.engine.weights import ldm
from service.engine.weights.lora import Adapter, Scaled, WeightPatch, layer_table, weight_change
from tests.engine.ldm_files import load_tiny, write_checkpoint


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("sdxl") / "tiny.safetensors"
    write_checkpoint(path, "sdxl")
    return load_tiny(path)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("sd1") / "tiny.safetensors"
    write_checkpoint(path, "sd1")
    return load_tiny(path)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def weights(model: Model) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": tensor.clone()
        for part, module in model.modules.items()
        for name, tensor in module.state_dict().items()
    }


def pair(layer: nn.Module, rank: int = 2) -> tuple[Tensor, Tensor]:
    """Random lora_down and lora_up for ``layer``."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    down = torch.randn(rank, *weight.shape[1:]) * 0.1
    up = torch.randn(weight.shape[0], rank, *([1, 1] if weight.ndim == 4 else [])) * 0.1
    return down, up


def network(model: Model, spelling: str) -> dict[str, Tensor]:
    """A network over some layers of each part, as ``spelling`` writes it."""
    torch.manual_seed(7)
    tensors: dict[str, Tensor] = {}
    two = "text_encoder_2" in model.modules
    for part, ends in {
        "unet": ("attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "proj_in"),
        "text_encoder": ("q_proj", "out_proj", "fc1"),
        "text_encoder_2": ("k_proj", "fc2"),
    }.items():
        for name, layer in model.modules[part].named_modules() if part in model.modules else ():
            if not name.endswith(ends):
                continue
            down, up = pair(layer)
            inner = name if part == "unet" else f"text_model.{name.removeprefix('text_model.')}"
            if spelling == "kohya":
                prefix = {"text_encoder": "lora_te1_" if two else "lora_te_", "text_encoder_2": "lora_te2_"}
                stem = ldm.unet_name(name, model.unet.config) if part == "unet" and two else inner
                base = prefix.get(part, "lora_unet_") + stem.replace(".", "_")
                tensors |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}
                tensors[f"{base}.alpha"] = torch.tensor(2.0)
            elif spelling == "peft":
                tensors |= {f"{part}.{inner}.lora_A.weight": down, f"{part}.{inner}.lora_B.weight": up}
            else:
                tensors |= {f"{part}.{inner}.lora.down.weight": down, f"{part}.{inner}.lora.up.weight": up}
    return tensors


@pytest.mark.parametrize("which", ["sd1", "sdxl"])
@pytest.mark.parametrize("spelling", ["kohya", "peft", "diffusers"])
def test_each_spelling_changes_the_same_weights_and_nothing_stays(
    which: str, spelling: str, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(which)
    before = weights(model)
    reference = WeightPatch(model, [Scaled(Adapter.of(network(model, "peft").items()), 0.5, 0.8)])
    reference.apply()
    expected = weights(model)
    reference.restore()
    patch = WeightPatch(model, [Scaled(Adapter.of(network(model, spelling).items()), 0.5, 0.8)])
    patch.apply()
    assert patch.unmatched == [[]]
    changed = weights(model)
    assert all(torch.equal(changed[name], expected[name]) for name in before)
    assert sum(not torch.equal(changed[name], before[name]) for name in before) > 10
    patch.restore()
    after = weights(model)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_kohyas_names_are_understood_as_diffusers_does(sdxl: Model) -> None:
    tensors = {name: t for name, t in network(sdxl, "kohya").items() if name.startswith("lora_unet")}
    mapped = theirs._maybe_map_sgm_blocks_to_diffusers(dict(tensors), sdxl.unet.config)
    converted, _ = theirs._convert_non_diffusers_lora_to_diffusers(mapped)
    table = layer_table(sdxl)
    ours = {id(table[name][1]) for name in Adapter.of(tensors.items()).layers}
    other = {id(table[name.replace(".", "_")][1]) for name in Adapter.of(converted.items()).layers}
    assert ours == other
    assert len(ours) == len(tensors) // 3


def test_a_failure_halfway_puts_everything_back(sd1: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights(sd1)
    patch = WeightPatch(sd1, [Scaled(Adapter.of(network(sd1, "kohya").items()), 1, 1)])
    write, calls = WeightPatch._write, 0

    def fail(self: WeightPatch, target: Tensor, value: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        write(self, target, value)

    monkeypatch.setattr(WeightPatch, "_write", fail)
    with pytest.raises(torch.OutOfMemoryError):
        patch.apply()
    after = weights(sd1)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_networks_for_other_checkpoints_match_nothing(sd1: Model) -> None:
    wrong = {
        "lora_unet_nowhere.lora_down.weight": torch.ones(2, 4),
        "lora_unet_nowhere.lora_up.weight": torch.ones(4, 2),
    }
    other_shape = {
        "unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(2, 999),
        "unet.mid_block.attentions.0.proj_in.lora_B.weight": torch.ones(999, 2),
    }
    before = weights(sd1)
    patch = WeightPatch(sd1, [Scaled(Adapter.of((wrong | other_shape).items()), 1, 1)])
    patch.apply()
    assert patch.unmatched == [["lora_unet_nowhere", "unet.mid_block.attentions.0.proj_in"]]
    after = weights(sd1)
    assert all(torch.equal(after[name], before[name]) for name in before)


def _peft_change(layer: nn.Module, config: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """What peft adds to ``layer`` with randomly filled adapters, and its tensors."""
    from peft import get_peft_model

    with torch.inference_mode(False), torch.no_grad():
        torch.manual_seed(3)
        wrapped = get_peft_model(nn.Sequential(layer), config)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
            elif "magnitude" in name:
                parameter.mul_(1.3)
        state = {name: p.detach().clone() for name, p in wrapped.named_parameters() if p.requires_grad}
        before = layer.weight.detach().clone()  # type: ignore[operator]
        merged = wrapped.merge_and_unload()
        return merged[0].weight.detach() - before, {
            name.split("base_model.model.0.", 1)[-1].replace(".default", ""): tensor
            for name, tensor in state.items()
        }


@pytest.mark.parametrize("kind", ["lora", "lora conv", "dora", "loha", "loha conv", "lokr", "lokr conv"])
def test_the_change_is_that_of_peft(kind: str) -> None:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    torch.manual_seed(1)
    with torch.inference_mode(False):
        layer: nn.Module = nn.Conv2d(8, 12, 3, bias=False) if "conv" in kind else nn.Linear(8, 12, bias=False)
    start = layer.weight.detach().clone()  # type: ignore[operator]
    method = kind.split()[0]
    if method in ("lora", "dora"):
        config: Any = LoraConfig(r=4, lora_alpha=2, target_modules=["0"], use_dora=method == "dora")
    elif method == "loha":
        config = LoHaConfig(r=4, alpha=2, target_modules=["0"], use_effective_conv2d="conv" in kind)
    else:
        config = LoKrConfig(r=1, alpha=1, target_modules=["0"], decompose_both=False)
    expected, tensors = _peft_change(layer, config)
    tensors = {f"layer.{name}": tensor for name, tensor in tensors.items()}
    adapter = dict(Adapter.of(tensors.items()).layers["layer"]) | {
        "alpha": torch.tensor(1.0 if method == "lokr" else 2.0)
    }
    change = weight_change(start, adapter, 1.0, None)
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)


def test_half_precision_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    write_checkpoint(path, "sd1")
    model = load_tiny(path)
    for module in model.modules.values():
        module.half()
    before = weights(model)
    patch = WeightPatch(model, [Scaled(Adapter.of(network(model, "kohya").items()), 1.7, -2.3)] * 2)
    patch.apply()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    patch.restore()
    patch.restore()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
