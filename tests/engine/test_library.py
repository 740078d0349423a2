"""The models folder, on the shipped model: what a request asks for reaches its image and no other one."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from service.catalogue import layouts
from service.core.cancel import CancelToken
from service.core.errors import BadRequest, Cancelled, ModelLoadError, UnknownName
from service.core.events import Progress
from service.core.generation import GenerationRequest, GenerationResult, HiresFix
from service.core.jobs import Enlargement
from service.engine.engine import DiffusersEngine
from service.engine.esrgan import RRDBNet
from service.settings import DEMO_MODEL, Settings
from tests.engine.ldm_files import header_only

SMALL = GenerationRequest(prompt="pretty dog", seed=5, steps=2, width=128, height=128)


def news(sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
    """Nobody listens."""


def run(engine: DiffusersEngine, **changes: Any) -> GenerationResult:
    return engine.generate(replace(SMALL, **changes), CancelToken(), lambda progress: None)


def image(engine: DiffusersEngine, **changes: Any) -> np.ndarray:
    return run(engine, **changes).images[0]


def _lora(
    path: Path, *, unet: bool = True, text: bool = True, metadata: dict[str, str] | None = None
) -> None:
    torch.manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    layers = [("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v", 160, 256)] if unet else []
    if text:
        layers += [(f"lora_te_text_model_encoder_layers_{n}_mlp_fc1", 1024, 256) for n in range(3)]
    for name, rows, columns in layers:
        tensors[f"{name}.lora_down.weight"] = torch.randn(4, columns) * 0.2
        tensors[f"{name}.lora_up.weight"] = torch.randn(rows, 4) * 0.2
        tensors[f"{name}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path, metadata)


def _vae_folder(path: Path, name: str) -> None:
    """The shipped VAE, but brighter by a tenth."""
    shutil.copytree(DEMO_MODEL / "vae", path / name)
    file = next((path / name).glob("*.safetensors"))
    tensors = load_file(file)
    last = max((n for n in tensors if n.startswith("decoder.layers.") and n.endswith("bias")), key=_number)
    tensors[last] = tensors[last] + 0.1
    save_file(tensors, file)


def _number(name: str) -> int:
    return int(name.split(".")[2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("checkpoints", "vae", "loras/people", "embeddings", "upscalers"):
        (root / name).mkdir(parents=True)
    shutil.copytree(DEMO_MODEL, root / "checkpoints/copy", ignore=shutil.ignore_patterns("training"))
    unet = next((root / "checkpoints/copy/unet").glob("*.safetensors"))
    tensors = load_file(unet)
    save_file({**tensors, "conv_out.bias": tensors["conv_out.bias"] + 0.1}, unet)
    _lora(root / "loras/people/both.safetensors", metadata={"ss_output_name": "Both Of Them"})
    _lora(root / "loras/text.safetensors", unet=False)
    _lora(root / "loras/unet.safetensors", text=False)
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1, 4), "lora_unet_x.lora_up.weight": torch.ones(4, 1)},
              root / "loras/stranger.safetensors")  # fmt: skip
    save_file({"x": torch.ones(1)}, root / "loras/none.safetensors")
    (root / "loras/old.pt").write_bytes(b"pickle")
    _vae_folder(root / "vae", "brighter")
    small = AutoencoderKL(block_out_channels=[32], norm_num_groups=8, layers_per_block=1)
    small.save_pretrained(root / "vae/four")
    save_file({"x": torch.ones(1)}, root / "vae/none.safetensors")
    torch.manual_seed(0)
    save_file(dict(RRDBNet(8, 4, 1, 1, 1).state_dict()), root / "upscalers/Small 2x.safetensors")
    return root


LOOK_UPS: list[tuple[str, bool]] = []


@pytest.fixture(scope="module")
def engine(folder: Path) -> DiffusersEngine:
    settings = Settings.read(models_dir=folder, warmup_steps=1, warmup_size=64)
    made = DiffusersEngine(settings, lambda cache, hit: LOOK_UPS.append((cache, hit)))
    made.load(news)
    return made


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test asked for: the plain image afterwards is the plain image of before."""
    if "engine" not in request.fixturenames:
        yield
        return
    engine: DiffusersEngine = request.getfixturevalue("engine")
    before = image(engine)
    yield
    assert np.array_equal(image(engine), before)


# --- LoRA --------------------------------------------------------------------------------------------


def test_loras_are_listed_with_their_alias_and_metadata(engine: DiffusersEngine) -> None:
    listed = {info.name: info for info in engine.catalogue().loras}
    assert listed.keys() == {"both", "text", "unet", "stranger"}
    assert listed["both"].alias == "Both Of Them"
    assert listed["both"].metadata == {"ss_output_name": "Both Of Them"}


def test_a_lora_acts_by_its_weights_on_each_part(engine: DiffusersEngine) -> None:
    plain = image(engine)
    images = [
        image(engine, prompt=f"pretty dog{tag}")
        for tag in ("<lora:both:1>", "<lora:both:0.5>", "<lora:text:1>", "<lora:unet:1>", "<lora:both:1:0>")
    ]
    for number, each in enumerate(images):
        assert not np.array_equal(each, plain)
        assert not any(np.array_equal(each, other) for other in images[:number]), (
            "the weights make no difference"
        )
    # The first number is for the text encoder, the second for the UNet.
    assert np.array_equal(image(engine, prompt="pretty dog<lora:both:0:0>"), plain)
    assert np.array_equal(image(engine, prompt="pretty dog<lora:text:0:1>"), plain)
    assert np.array_equal(image(engine, prompt="pretty dog<lora:both:1>"), images[0])
    assert np.array_equal(image(engine, prompt="pretty dog<lora:Both Of Them:1>"), images[0])
    assert np.array_equal(image(engine, prompt="pretty dog<lora:both:1>", disable_extra_networks=True), plain)


def test_the_infotext_names_loras_by_their_hash(engine: DiffusersEngine, folder: Path) -> None:
    import hashlib

    extra = run(engine, prompt="dog <lora:both:1> <lora:unet:0.3>").extra
    content = (folder / "loras/unet.safetensors").read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    assert str(extra["Lora hashes"]).startswith("both: ")
    assert str(extra["Lora hashes"]).endswith(f", unet: {hashlib.sha256(body).hexdigest()[:12]}")


def test_unknown_networks_are_commented_and_the_image_is_made(engine: DiffusersEngine) -> None:
    result = run(engine, prompt="pretty dog<lora:nobody:1><hypernet:old:1>")
    assert result.comments == ("Networks not found: nobody, old",)
    assert np.array_equal(result.images[0], image(engine))
    result = run(engine, prompt="pretty dog<lora:stranger:1>")
    assert "stranger changes nothing" in result.comments[0]


def test_a_cancelled_image_leaves_no_lora_behind(engine: DiffusersEngine) -> None:
    token = CancelToken()

    def cancel(progress: Progress) -> None:
        token.cancel("disconnect")

    with pytest.raises(Cancelled):
        engine.generate(replace(SMALL, prompt="pretty dog<lora:both:1>"), token, cancel)


# --- embeddings ----------------------------------------------------------------------------------------


def test_embeddings_stand_for_their_vectors(engine: DiffusersEngine, folder: Path) -> None:
    model = engine.get()
    encoder = model.conditioner.encoders[0]
    table = encoder.model.get_input_embeddings().weight
    [ids] = encoder.tokenize(["dog"])
    shelf = folder / "embeddings"
    with torch.inference_mode():
        vectors = table[ids].clone()
    save_file({"emb_params": vectors}, shelf / "zorg.safetensors")
    save_file({"<token>": vectors[0]}, shelf / "single.safetensors")
    save_file({"string_to_param.*": vectors, "step": torch.tensor(3)}, shelf / "older.safetensors")
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, shelf / "large.safetensors")
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, shelf / "none.safetensors")
    (shelf / "picture.png").write_bytes(b"\x89PNG")
    (shelf / "pickle.pt").write_bytes(b"pickle")
    engine.refresh()
    try:
        listed = {info.name: info for info in engine.catalogue().embeddings}
        assert listed.keys() == {"zorg", "single", "older", "large"}
        assert (listed["zorg"].vectors, listed["zorg"].width, listed["zorg"].usable) == (len(ids), 256, True)
        assert (listed["large"].vectors, listed["large"].width, listed["large"].usable) == (2, 2048, False)
        plain = image(engine, prompt="pretty dog, dog")
        result = run(engine, prompt="pretty zorg, older")
        assert np.array_equal(result.images[0], plain)
        hashes = str(result.extra["TI hashes"]).split(", ")
        assert [each.split(": ")[0] for each in hashes] == ["zorg", "older"]
        assert all(len(each.split(": ")[1]) == 12 for each in hashes)
        assert "TI hashes" not in run(engine).extra
    finally:
        for file in shelf.iterdir():
            file.unlink()
        engine.refresh()
    assert engine.catalogue().embeddings == ()
    assert not np.array_equal(image(engine, prompt="pretty zorg, older"), plain)


# --- VAE -----------------------------------------------------------------------------------------------


def test_another_vae_decodes_for_one_request(engine: DiffusersEngine) -> None:
    assert [info.name for info in engine.catalogue().vaes] == ["brighter", "four"]
    plain = run(engine)
    assert plain.vae_name is None
    other = run(engine, vae="brighter")
    assert other.vae_name == "brighter"
    difference = other.images[0].astype(int) - plain.images[0].astype(int)
    within = (plain.images[0] > 0) & (other.images[0] < 255)
    assert within.mean() > 0.2
    assert set(np.unique(difference[within])) <= {25, 26}
    for own in ("Automatic", "None", ""):
        assert np.array_equal(image(engine, vae=own), plain.images[0])


def test_a_vae_that_does_not_fit_is_refused(engine: DiffusersEngine) -> None:
    with pytest.raises(BadRequest, match=r"4 channels at 1/1 .*needs 8 at 1/16"):
        run(engine, vae="four")
    with pytest.raises(UnknownName, match="Automatic, brighter, four"):
        run(engine, vae="nobody")


def test_vae_files_are_read_in_both_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engine.shelves import vaes as vae_files
    from tests.engine.ldm_files import CPU, ldm_tensors, load_tiny, networks, tiny, write_checkpoint

    monkeypatch.setattr(vae_files, "configuration", tiny)
    write_checkpoint(tmp_path / "m.safetensors", "sd1", seed=1)
    model = load_tiny(tmp_path / "m.safetensors")
    other = networks(tiny("sd1"), seed=2)
    folder = tmp_path / "vae"
    folder.mkdir()
    named = {n: t for n, t in ldm_tensors(other, layouts.Layout("sd1", 4, {})).items() if "first_stage" in n}
    save_file(named, folder / "whole.safetensors")
    bare = {name.removeprefix(layouts.VAE): tensor for name, tensor in named.items()}
    save_file(bare | {"loss.logvar": torch.ones(1)}, folder / "bare.vae.safetensors")
    save_file(dict(other["vae"].state_dict()), folder / "diffusers.safetensors")
    shelf = vae_files.VaeShelf(folder)
    assert len(shelf.all()) == 3
    for info in shelf.all():
        changed = shelf.put_in(model, info.name.removesuffix(".safetensors"), CPU)
        state = changed.vae.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in other["vae"].state_dict().items())
        assert changed.vae.config.scaling_factor == model.vae.config.scaling_factor
        assert changed.vae_hash is not None
        assert changed.vae is not model.vae


# --- checkpoints -----------------------------------------------------------------------------------------


def test_checkpoints_are_chosen_by_request_and_kept_within_the_budget(engine: DiffusersEngine) -> None:
    default, copy = engine.catalogue().checkpoints
    assert (default.title, copy.title) == (engine.catalogue().default.title, "copy")
    library = engine._require()
    plain, other = image(engine), run(engine, checkpoint="copy")
    assert not np.array_equal(other.images[0], plain)
    copy = engine.catalogue().find("copy")
    assert copy.sha256 is not None
    assert copy.title == f"copy [{copy.short_hash}]" == other.model_title
    assert [info.name for info in library.loaded] == ["demo_model", "copy"]
    assert engine.load_checkpoint(copy.title) == engine.load_checkpoint(copy.sha256) == copy
    settings = library._settings
    one_and_a_half = 1.5 * engine.get().resident_bytes / 2**30
    library._settings = settings.model_copy(update={"model_memory_gib": one_and_a_half})
    engine.unload()
    try:
        for name in ("demo_model", "copy", "demo_model"):
            assert engine.load_checkpoint(name).name == name
        engine.load_checkpoint("copy")
        assert [info.name for info in library.loaded] == ["copy"]
        assert np.array_equal(image(engine), plain)
        assert [info.name for info in library.loaded] == ["demo_model"]
        # Both are needed at once.
        hires = HiresFix(128, 128, 0.5, "Lanczos", 1, checkpoint="copy")
        assert run(engine, hires=hires).images[0].shape == (128, 128, 3)
        assert len(library.loaded) == 2
    finally:
        library._settings = settings


def test_the_second_pass_has_the_networks_of_its_own_prompt(engine: DiffusersEngine) -> None:
    def hires(prompt: str, second: str | None, checkpoint: str | None = None) -> GenerationResult:
        pass_ = HiresFix(192, 192, 0.5, "Latent", 2, prompt=second, checkpoint=checkpoint)
        return run(engine, prompt=prompt, hires=pass_)

    tag = "<lora:unet:1>"
    plain, both = hires("pretty dog", None), hires(f"pretty dog{tag}", None)
    second = hires("pretty dog", f"pretty dog{tag}")
    assert str(second.extra["Lora hashes"]).startswith("unet: ")
    first = hires(f"pretty dog{tag}", "pretty dog")
    images = [result.images[0] for result in (plain, both, second, first)]
    for number, each in enumerate(images):
        assert not any(np.array_equal(each, other) for other in images[:number])
    assert np.array_equal(hires(f"pretty dog{tag}", f"pretty dog{tag}").images[0], images[1])
    # Each batch begins with the networks of the prompt, whatever the second pass of the last one had.
    again = run(engine, prompt=f"pretty dog{tag}", seed=SMALL.seed - 1, batch_count=2,
                hires=HiresFix(192, 192, 0.5, "Latent", 2, prompt="pretty dog"))  # fmt: skip
    assert np.array_equal(again.images[1], images[3])
    other = hires("pretty dog", f"pretty dog{tag}", "copy").images[0]
    assert not np.array_equal(other, hires("pretty dog", None, "copy").images[0])


def test_every_checkpoint_of_a_tileable_picture_wraps_around(engine: DiffusersEngine) -> None:
    seen: dict[str, set[str]] = {}
    for name in ("demo_model", "copy"):
        convolution = engine.get(name).network.conv_in

        def look(module: torch.nn.Conv2d, inputs: object, name: str = name) -> None:
            seen.setdefault(name, set()).add(module.padding_mode)

        convolution.register_forward_pre_hook(look)
    hires = HiresFix(128, 128, 0.5, "Latent", 2, checkpoint="copy")
    run(engine, tiling=True, hires=hires)
    assert seen == {"demo_model": {"circular"}, "copy": {"circular"}}
    seen.clear()
    run(engine, tiling=True, refiner_checkpoint="copy", refiner_switch_at=0.5)
    assert seen == {"demo_model": {"circular"}, "copy": {"circular"}}
    seen.clear()
    run(engine, hires=hires)
    assert seen == {"demo_model": {"zeros"}, "copy": {"zeros"}}
    engine.unload()


def test_a_refiner_that_took_over_decodes(engine: DiffusersEngine) -> None:
    decoded: list[str] = []
    for name in ("demo_model", "copy"):
        decoder = engine.get(name).vae.decoder
        decoder.register_forward_pre_hook(lambda *_, name=name: decoded.append(name))
    try:
        run(engine, batch_count=2, refiner_checkpoint="copy", refiner_switch_at=0.5)
        assert decoded == ["copy", "copy"]
        decoded.clear()
        run(engine, refiner_checkpoint="copy", refiner_switch_at=1.0)
        assert decoded == ["demo_model"]
    finally:
        engine.unload()


def test_a_network_named_twice_acts_twice_as_its_last_tag_says(engine: DiffusersEngine) -> None:
    twice = image(engine, prompt="pretty dog<lora:unet:0.2><lora:unet:0.5>")
    alone = image(engine, prompt="pretty dog<lora:unet:1>")
    assert np.abs(twice.astype(int) - alone).max() <= 1
    assert not np.array_equal(twice, image(engine, prompt="pretty dog<lora:unet:0.7>"))


def test_unloading_and_loading_again_makes_the_same_image(engine: DiffusersEngine) -> None:
    plain = image(engine)
    engine.unload()
    assert engine._require().loaded == []
    LOOK_UPS.clear()
    for hit in (False, True):
        assert np.array_equal(image(engine), plain)
        assert [found for cache, found in LOOK_UPS if cache == "checkpoint"][-1] == hit


def test_refresh_finds_new_files_and_drops_changed_ones(engine: DiffusersEngine, folder: Path) -> None:
    before = image(engine, checkpoint="copy")
    unet = next((folder / "checkpoints/copy/unet").glob("*.safetensors"))
    tensors = load_file(unet)
    save_file({**tensors, "conv_out.bias": tensors["conv_out.bias"] + 0.3}, unet)
    broken = folder / "checkpoints/broken.safetensors"
    save_file({"joint_blocks.0.x": torch.ones(1)}, broken)
    try:
        engine.refresh()
        assert [info.name for info in engine.catalogue().checkpoints][1:] == ["copy"]
        assert not np.array_equal(image(engine, checkpoint="copy"), before)
        with pytest.raises(UnknownName, match="copy"):
            engine.load_checkpoint("broken")
    finally:
        broken.unlink()
        engine.refresh()


def test_too_large_a_checkpoint_is_refused_before_it_is_read(engine: DiffusersEngine, folder: Path) -> None:
    path = folder / "checkpoints/huge.safetensors"
    huge = (2**20, 4, 2**10, 2**8)
    names = {f"{layouts.VAE}x": (1,), "cond_stage_model.transformer.x": (1,)}
    header_only(path, {f"{layouts.UNET}input_blocks.0.0.weight": huge, **names})
    try:
        engine.refresh()
        with pytest.raises(
            ModelLoadError, match=r"needs 4096\.0 GiB of memory .*only .* GiB are free.*raise the"
        ):
            engine.load_checkpoint("huge")
    finally:
        path.unlink()
        engine.refresh()


def test_free_memory_is_the_least_of_machine_and_control_group(tmp_path: Path) -> None:
    from service.engine.memory import free_main_memory

    assert free_main_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  8000 kB\nMemAvailable:  6000 kB\n")
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert free_main_memory(tmp_path) == 6000 * 1024
    (group / "memory.max").write_text("3000000\n")
    (group / "memory.current").write_text("2500000\n")
    (group / "memory.stat").write_text("anon 2000000\ninactive_file 400000\n")
    assert free_main_memory(tmp_path) == 900_000


def test_the_hires_pass_may_use_an_upscaling_network(engine: DiffusersEngine) -> None:
    assert [info.name for info in engine.catalogue().upscalers] == ["None", "Lanczos", "Nearest", "Small 2x"]
    images = [image(engine, hires=HiresFix(192, 192, 0.3, name, 2)) for name in ("Small 2x", "Lanczos")]
    assert images[0].shape == images[1].shape == (192, 192, 3)
    assert not np.array_equal(images[0], images[1])
    enlarged = engine.upscale(images[0], Enlargement("Small 2x", 300, 250), CancelToken())
    assert enlarged.shape == (250, 300, 3)


def test_free_gpu_memory_is_what_the_slice_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    from service.engine.device import Device
    from service.engine.memory import free_bytes, require_room

    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * gib, 24 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * gib)
    card = Device(torch.device("cuda"), torch.float16, 0)
    part = Device(torch.device("cuda"), torch.float16, 8 * gib)
    assert free_bytes(card) == 12 * gib, "what the driver has, and what the allocator holds without use"
    assert free_bytes(part) == 5 * gib
    require_room(6 * gib, card, "large")
    with pytest.raises(ModelLoadError, match=r"large needs 6\.0 GiB of GPU memory .* only 5\.0 GiB .*slice"):
        require_room(6 * gib, part, "large")
