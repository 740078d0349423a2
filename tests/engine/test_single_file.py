"""Single-file checkpoints: every tensor where diffusers' own converters put it, and clear words about other files."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils as theirs
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from service.catalogue.layouts import UNET, VAE, configuration, identify
from service.catalogue.weights import read_header
from service.core.errors import ModelLoadError
from service.engine.families.stable_diffusion import Refiner, StableDiffusion, StableDiffusionXL
from service.engine.weights import ldm, single_file
from service.engine.weights.clip_vocabulary import clip_tokenizer
from service.engine.weights.single_file import stated_prediction
from tests.engine.ldm_files import (
    CPU,
    INFO,
    header_only,
    layout_of,
    ldm_tensors,
    load_tiny,
    meta,
    networks,
    tiny,
    write_checkpoint,
)

FAMILIES = [("sd1", 4), ("sd1", 9), ("sd2", 4), ("sdxl", 4), ("sdxl", 9), ("sdxl_refiner", 4)]


def same(ours: nn.Module, expected: dict[str, Tensor]) -> None:
    have = {name.removeprefix("text_model."): tensor for name, tensor in ours.state_dict().items()}
    want = {name.removeprefix("text_model."): tensor for name, tensor in expected.items()}
    want = {name: tensor for name, tensor in want.items() if not name.endswith("position_ids")}
    assert have.keys() - {"embeddings.position_ids"} == want.keys()
    for name, tensor in want.items():
        assert torch.equal(have[name], tensor), name


@pytest.mark.parametrize(("family", "channels"), FAMILIES)
def test_every_tensor_comes_back(tmp_path: Path, family: str, channels: int) -> None:
    path = tmp_path / "tiny.safetensors"
    parts = write_checkpoint(path, family, channels)
    model = load_tiny(path)
    assert model.is_inpainting == (channels == 9)
    assert type(model) is {"sdxl": StableDiffusionXL, "sdxl_refiner": Refiner}.get(family, StableDiffusion)
    assert model.modules.keys() == parts.keys()
    for name, module in parts.items():
        same(model.modules[name], dict(module.state_dict()))


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_the_names_are_those_of_the_converters_of_diffusers(family: str) -> None:
    config, layout = tiny(family), layout_of(family)
    parts = networks(config)
    file = ldm_tensors(parts, layout)
    same(parts["unet"], theirs.convert_ldm_unet_checkpoint(dict(file), parts["unet"].config))
    same(parts["vae"], theirs.convert_ldm_vae_checkpoint(dict(file), parts["vae"].config))
    for part, (prefix, is_open_clip) in layout.encoders.items():
        if is_open_clip:
            converted = theirs.convert_open_clip_checkpoint(parts[part], dict(file), prefix=prefix)
        else:
            only = {name: tensor for name, tensor in file.items() if name.startswith(prefix)}
            converted = theirs.convert_ldm_clip_checkpoint(only)
        same(parts[part], converted)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_the_real_sizes_are_those_that_were_published(family: str) -> None:
    """Parameters as they were counted (SD 1.5: 860 million, SDXL: 2.6 billion), and telling tensors."""
    config = configuration(family)
    counts = {
        part: sum(p.numel() for p in meta(part, config).parameters())
        for part in ("unet", "vae", "text_encoder", "text_encoder_2")
        if part in config
    }
    assert counts["vae"] == 83_653_863
    expected = {
        "sd1": {"unet": 859_520_964, "text_encoder": 123_060_480},
        "sd2": {"unet": 865_910_724, "text_encoder": 340_387_840},
        "sdxl": {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
        "sdxl_refiner": {"unet": 2_259_526_660, "text_encoder_2": 694_659_840},
    }[family]
    assert counts == expected | {"vae": 83_653_863}
    names = {ldm.unet_name(n, config["unet"]): p.shape for n, p in meta("unet", config).state_dict().items()}
    landmarks: dict[str, dict[str, tuple[int, ...]]] = {
        "sd1": {
            "output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
            "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
            "input_blocks.2.1.proj_in.weight": (320, 320, 1, 1),
            "output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        },
        "sd2": {
            "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
            "input_blocks.2.1.proj_in.weight": (320, 320),
        },
        "sdxl": {
            "label_emb.0.0.weight": (1280, 2816),
            "input_blocks.7.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
            "output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
            "output_blocks.8.0.skip_connection.weight": (320, 640, 1, 1),
        },
        "sdxl_refiner": {
            "label_emb.0.0.weight": (1536, 2560),
            "input_blocks.4.1.transformer_blocks.3.attn2.to_k.weight": (768, 1280),
            "middle_block.1.transformer_blocks.3.attn2.to_k.weight": (1536, 1280),
        },
    }
    for name, shape in landmarks[family].items():
        assert names[name] == shape, name


@pytest.mark.parametrize(("family", "channels"), FAMILIES)
def test_files_of_the_real_size_are_recognised_by_their_header(
    tmp_path: Path, family: str, channels: int
) -> None:
    config = configuration(family)
    config["unet"]["in_channels"] = channels
    shapes: dict[str, tuple[int, ...]] = {"model_ema.decay": ()}
    for part, prefix, name_of in (("unet", UNET, ldm.unet_name), ("vae", VAE, ldm.vae_name)):
        for name, tensor in meta(part, config).state_dict().items():
            shapes[prefix + name_of(name, config[part])] = tuple(tensor.shape)
    for prefix, _ in layout_of(family).encoders.values():
        shapes[f"{prefix}any"] = (1,)
    layout = identify(tmp_path, header_only(tmp_path / "real.safetensors", shapes))
    assert (layout.family, layout.in_channels) == (family, channels)


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"joint_blocks.0.x_block.attn.qkv.weight": (4, 4)}, "Stable Diffusion 3"),
        ({"model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4, 4)}, "Flux"),
        ({"lora_unet_down_blocks_0.lora_down.weight": (4, 4)}, "LoRA"),
        ({"first_stage_model.decoder.up.0.block.0.conv1.weight": (4, 4)}, "VAE alone"),
        ({"decoder.up.0.block.0.conv1.weight": (4, 4)}, "VAE alone"),
        ({"emb_params": (2, 768)}, "textual inversion"),
        ({"conv_first.weight": (4, 3, 3, 3)}, "upscaler"),
        ({"control_model.input_hint_block.0.weight": (4, 3, 3, 3)}, "ControlNet"),
        ({"down_blocks.0.resnets.0.conv1.weight": (4, 3, 3, 3)}, "diffusers folder"),
        ({"text_model.final_layer_norm.weight": (4,)}, "text encoder alone"),
        ({"whatever": (4,)}, "no UNet"),
        ({}, "no UNet"),
        ({f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3)}, "no VAE"),
        ({f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{VAE}x": (1,)}, "no text encoder"),
        ({f"{UNET}input_blocks.0.0.weight": (320, 8, 3, 3), f"{VAE}x": (1,)}, "InstructPix2Pix"),
        ({f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), "edm_mean": (4,)}, "Playground"),
    ],
)
def test_other_files_are_named(tmp_path: Path, tensors: dict[str, tuple[int, ...]], what: str) -> None:
    path = tmp_path / "other.safetensors"
    with pytest.raises(ModelLoadError, match=what):
        identify(path, header_only(path, tensors))


def test_a_file_of_another_size_or_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    write_checkpoint(path, "sd1")
    tensors = load_file(path)
    name = f"{UNET}middle_block.0.in_layers.2.weight"
    save_file({**tensors, name: tensors[name][:8].clone()}, path)
    with pytest.raises(ModelLoadError, match=r"unet in tiny.*conv1.*shape"):
        load_tiny(path)
    save_file({n: t for n, t in tensors.items() if n != name}, path)
    with pytest.raises(ModelLoadError, match="lacks 1 of its tensors"):
        load_tiny(path)
    save_file({**tensors, f"{UNET}surprise": torch.ones(1)}, path)
    with pytest.raises(ModelLoadError, match="surprise"):
        load_tiny(path)


def test_what_the_unet_predicts_is_read_from_the_sidecar_the_tensors_and_the_metadata(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"x": torch.ones(1)}, path)
    entries: Any = {}
    assert stated_prediction(entries, {}) is None
    assert stated_prediction(entries, {"modelspec.prediction_type": "v"}) == "v_prediction"
    assert stated_prediction(entries, {"modelspec.prediction_type": "epsilon"}) == "epsilon"
    assert stated_prediction({"v_pred": read_header(path)[0]["x"]}, {}) == "v_prediction"


SIDECAR = """
model:
  params:
    parameterization: "v"
    linear_start: 0.001
    scale_factor: 0.5
    unet_config:
      params: {model_channels: 32, channel_mult: [1, 1, 2, 2], num_heads: 4, context_dim: 32}
    first_stage_config:
      params: {ddconfig: {ch: 16, ch_mult: [1, 1, 2, 2], z_channels: 4}}
"""


def test_a_configuration_beside_the_file_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.engine.conditioning import EncodingCache

    path = tmp_path / "tiny.safetensors"
    write_checkpoint(path, "sd1")
    own = tiny("sd1")
    # What the published model has, but for what the configuration tells.
    published = copy.deepcopy(own)
    published["unet"]["block_out_channels"] = published["vae"]["block_out_channels"] = [320, 640, 1280, 1280]
    monkeypatch.setattr(single_file, "configuration", lambda family: copy.deepcopy(published))
    path.with_suffix(".yaml").write_text(SIDECAR)
    model = single_file.load_file(path, INFO, CPU, EncodingCache())
    assert model.prediction == "v_prediction"
    assert model.unet.config.block_out_channels == [32, 32, 64, 64]
    assert model.unet.config.attention_head_dim == 4
    assert model.vae.config.scaling_factor == 0.5
    plain = load_tiny(path)
    assert not torch.equal(model.sigmas, plain.sigmas)
    for content, wrong in (
        ("a: [", "not YAML"),
        ("a: 1", "no model.params"),
        (SIDECAR.replace("[1, 1, 2, 2]", "[1]"), "levels"),
    ):
        path.with_suffix(".yaml").write_text(content)
        with pytest.raises(ModelLoadError, match=wrong):
            single_file.load_file(path, INFO, CPU, EncodingCache())


def test_the_noise_schedule_of_the_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engine.conditioning import EncodingCache

    monkeypatch.setattr(single_file, "configuration", tiny)
    path = tmp_path / "tiny.safetensors"
    alphas = torch.linspace(0.99, 0.01, 1000)
    write_checkpoint(path, "sd1", extra={"alphas_cumprod": alphas})
    model = single_file.load_file(path, INFO, CPU, EncodingCache())
    torch.testing.assert_close(model.sigmas, ((1 - alphas) / alphas).sqrt())
    write_checkpoint(path, "sd1", extra={"alphas_cumprod": alphas, "ztsnr": torch.ones(1)})
    model = single_file.load_file(path, INFO, CPU, EncodingCache())
    assert float(model.sigmas[-1]) > 4000


def test_a_trained_unet_shows_what_it_predicts() -> None:
    """The shipped model predicts velocities; rewritten, the same network predicts the noise."""
    from service.engine.conditioning import EncodingCache
    from service.engine.weights.loading import load_folder
    from service.settings import DEMO_MODEL

    model = load_folder(DEMO_MODEL, INFO, CPU, EncodingCache())
    assert model.prediction == "v_prediction"
    assert not single_file.predicts_noise(model)
    velocity, last = model.unet.forward, float(model.sigmas[-1])

    def noise(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor]:
        # eps = alpha v + sigma x, in the scale where alpha² + sigma² = 1
        alpha = (1 / (1 + last**2)) ** 0.5
        return (alpha * velocity(x, *args, **kwargs)[0] + last * alpha * x,)

    model.unet.forward = noise
    assert single_file.predicts_noise(model)


def test_the_tokenizer_is_that_of_clip() -> None:
    tokenizer = clip_tokenizer()
    ids = tokenizer("a photo of a cat, Pretty DOG's 日本 é")["input_ids"]
    # From OpenAI's own tokenizer, with start and end around it.
    expected = [320, 1125, 539, 320, 2368, 267, 2111, 1929, 568, 39121, 19277, 361, 4166]
    assert ids == [49406, *expected, 49407]
    assert (len(tokenizer), tokenizer.pad_token_id) == (49408, 49407)
    assert clip_tokenizer("!").pad_token_id == 0
