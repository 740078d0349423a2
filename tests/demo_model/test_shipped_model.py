"""The folder that ships: loads with plain diffusers, offline; small enough; repeatable; draws what it is asked."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from service.demo_model.training.matching import Matcher, colour_name
from tests.demo_model.thumbnails import Thumbnails

FOLDER = Path(__file__).parents[2] / "service" / "demo_model"
DATA = Path(__file__).parent / "data"

# diffusers' Euler scheduler hands a torch tensor to numpy.array in a way that numpy 2 will not take for ever.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def pipe() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.StableDiffusionPipeline.from_pretrained(str(FOLDER), local_files_only=True)
    made.set_progress_bar_config(disable=True)
    return made


def draw(
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], side: int = 512, steps: int = 20
) -> list[npt.NDArray[np.uint8]]:
    images = pipe(
        list(prompts),
        height=side,
        width=side,
        num_inference_steps=steps,
        guidance_scale=7.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images
    return [np.asarray(image) for image in images]


def test_weights_are_half_precision_safetensors_of_at_most_30_mib() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and "training" not in path.parts]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".webp", ".py"}
    assert sum(path.stat().st_size for path in files) <= 30 * 2**20
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        with (FOLDER / f"{part}.safetensors").open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
        assert kinds == {"F16"}


def test_folder_loads_as_stable_diffusion_in_single_precision(pipe: Any) -> None:
    assert type(pipe.unet).__name__ == "UNet2DConditionModel"
    assert type(pipe.text_encoder).__name__ == "CLIPTextModel"
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert pipe.safety_checker is None
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"
    assert pipe.vae_scale_factor == 16
    assert pipe.tokenizer.model_max_length == 77


def test_no_part_asks_for_remote_code() -> None:
    index = json.loads((FOLDER / "model_index.json").read_text())
    libraries = {value[0] for value in index.values() if isinstance(value, list)}
    assert libraries <= {"diffusers", "transformers", None}


@pytest.mark.parametrize(
    "prompt", ["", "🐶🍎", "zażółć gęślą jaźń 漢字", "qzxv " * 300, "a dog " + "very " * 300]
)
def test_no_prompt_is_too_strange(pipe: Any, prompt: str) -> None:
    (image,) = draw(pipe, [prompt], [1], side=256, steps=4)
    assert image.shape == (256, 256, 3)
    assert image.std() > 1


def test_same_seed_gives_the_same_bytes_and_another_seed_another_picture(pipe: Any) -> None:
    first, again, other = (draw(pipe, ["a pretty dog"], [seed], steps=8)[0] for seed in (5, 5, 6))
    assert first.tobytes() == again.tobytes()
    assert np.abs(first.astype(float) - other).mean() > 5


def test_latents_have_deviation_one_and_survive_the_round_trip(pipe: Any) -> None:
    path = sorted((DATA / "thumbnails").glob("*.png"))[0]
    with Image.open(path) as image:
        picture = Image.new("RGB", (512, 512), (120, 170, 220))
        picture.paste(image.resize((400, 400)), (56, 56), image.resize((400, 400)))
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(pixels).latents * pipe.vae.config.scaling_factor
        back = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    assert latents.shape == (1, 8, 32, 32)
    assert 0.6 < latents.std() < 1.6
    assert (back - pixels).abs().mean() < 0.05


def test_background_has_the_colour_that_was_asked_for(pipe: Any) -> None:
    colours = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
    drawn = draw(pipe, [f"a pretty dog on a {colour} background" for colour in colours], range(8))
    matcher = Matcher(torch.zeros(1, 4, 32, 32, dtype=torch.uint8))
    found = [colour_name(matcher.match(image).background) for image in drawn]
    assert sum(one == other for one, other in zip(found, colours, strict=True)) >= 7, found


def test_subjects_are_what_was_asked_for(pipe: Any, thumbnails: Thumbnails) -> None:
    """Nearest of ten thumbnails; chance would find one in ten. The card has the figures for all subjects."""
    asked = thumbnails.names
    drawn = draw(pipe, [f"a {name}" for name in asked], range(len(asked)))
    found = [thumbnails.nearest(image) for image in drawn]
    assert sum(one == other for one, other in zip(found, asked, strict=True)) >= 9, found


@pytest.mark.parametrize("side", [256, 384, 768])
def test_other_sizes_are_recognised(pipe: Any, thumbnails: Thumbnails, side: int) -> None:
    asked = ("red apple", "octopus", "rocket", "pizza")
    drawn = draw(pipe, [f"a {name}" for name in asked], range(4), side)
    assert {image.shape for image in drawn} == {(side, side, 3)}
    found = [thumbnails.nearest(image) for image in drawn]
    assert sum(one == other for one, other in zip(found, asked, strict=True)) >= 3, found
