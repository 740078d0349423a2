"""Infotext: A1111's order and quoting, and a round trip that hostile prompts survive."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.generation import GenerationRequest, GenerationResult, HiresFix, InitImage, SamplingShape
from service.imaging.infotext import InfotextOptions, compose, extra_parameters, parse, quote

BLANK = np.zeros((8, 8, 3), np.uint8)


def result_of(request: GenerationRequest, **changes: Any) -> GenerationResult:
    count = request.image_count
    result = GenerationResult(
        images=(BLANK,) * count,
        request=request,
        seeds=tuple(request.seed_of(index) for index in range(count)),
        subseeds=tuple(request.subseed_of(index) for index in range(count)),
        model_name="v1-5-pruned-emaonly",
        model_hash="6ce0161689",
        sampler=request.sampler,
        scheduler=request.scheduler,
    )
    return dataclasses.replace(result, **changes)


def test_the_example_of_a1111() -> None:
    result = result_of(
        GenerationRequest(
            prompt="a cat", negative_prompt="blurry", seed=123, sampler="Euler a", noise_source="GPU"
        )
    )
    assert compose(result, 0, InfotextOptions()) == (
        "a cat\n"
        "Negative prompt: blurry\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.0, Seed: 123, Size: 512x512, "
        "Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Version: v1.10.1"
    )


def test_every_key_in_its_place() -> None:
    request = GenerationRequest(
        prompt="p",
        seed=5,
        subseed=9,
        subseed_strength=0.5,
        seed_resize_from=(256, 320),
        clip_skip=2,
        eta_noise_seed_delta=31337,
        sampler="Euler a",
        tiling=True,
        batch_size=2,
        init=InitImage(images=(BLANK,), denoising_strength=0.4, image_guidance_scale=1.5),
        refiner_checkpoint="xl-refiner",
        refiner_switch_at=0.8,
    )
    result = result_of(
        request,
        vae_name="vae.pt",
        vae_hash="c6a580b13a",
        extra={"Lora hashes": "a: 12, b: 34", "Init image hash": "abc"},
    )
    line = compose(result, 1, InfotextOptions(user="me"), {"Mask blur": 4}).split("\n")[-1]
    assert line == (
        "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7.0, Seed: 5, "
        "Size: 512x512, Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, VAE hash: c6a580b13a, "
        "VAE: vae.pt, Variation seed: 10, Variation seed strength: 0.5, Seed resize from: 256x320, "
        "Denoising strength: 0.4, "
        "Clip skip: 2, ENSD: 31337, Init image hash: abc, RNG: CPU, Tiling: True, Mask blur: 4, "
        'Lora hashes: "a: 12, b: 34", Refiner: xl-refiner, Refiner switch at: 0.8, Version: v1.10.1, User: me'
    )


def keys_of(result: GenerationResult, extra: dict[str, Any] | None = None) -> list[str]:
    return list(extra_parameters(result, extra))


def test_entries_follow_in_the_order_in_which_a1111_comes_upon_them() -> None:
    bent = SamplingShape(
        sigma_min=0.1,
        sigma_max=9,
        rho=5,
        discard_next_to_last_sigma=True,
        zero_terminal_snr=True,
        half_alphas=True,
    )
    request = GenerationRequest(
        prompt="a (cat:1.2)", emphasis="No norm", extra_noise=0.1, shape=bent, sampler="DPM++ 2M", scheduler="Karras",
        init=InitImage(images=(BLANK,), noise_multiplier=0.9), refiner_checkpoint="other", refiner_switch_at=0.5,
    )  # fmt: skip
    made = {"Pad conds": True, "Lora hashes": "a: 1", "TI hashes": "b: 2", "NGMS": 0.1, "Eta": 0.5}
    told = {
        "Mask mode": "Inpaint not masked",
        "Mask blur": 4,
        "Masked content": "fill",
        "SD upscale overlap": 64,
    }
    assert keys_of(result_of(request, extra=made), told) == [
        "SD upscale overlap", "Denoising strength", "Mask mode", "Mask blur", "Masked content", "Lora hashes",
        "TI hashes", "Emphasis", "Downcast alphas_cumprod", "Noise Schedule", "Noise multiplier",
        "Discard penultimate sigma", "Schedule type", "Schedule min sigma", "Schedule max sigma", "Schedule rho",
        "Extra noise", "Eta", "NGMS", "Pad conds", "Refiner", "Refiner switch at",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "negative", "told"),
    [("a cat", "", False), ("a (cat:1.2)", "", True), ("a cat", "[bad]", True), ("a [cat:dog:0.5]", "", False),
     ("<lora:a(b):1> a", "", False), ("a AND [b]", "", True)],
)  # fmt: skip
def test_the_emphasis_is_told_where_a_prompt_has_any(prompt: str, negative: str, told: bool) -> None:
    request = GenerationRequest(prompt=prompt, negative_prompt=negative, emphasis="No norm")
    assert ("Emphasis" in keys_of(result_of(request))) == told
    assert ("Emphasis: No norm" in compose(result_of(request), 0)) == told


@pytest.mark.parametrize(
    ("sampler", "eta", "told"),
    [("Euler a", None, True), ("Euler a", 0.0, False), ("Euler", None, False), ("DPM++ 2M SDE", None, False)],
)
def test_ensd_is_told_of_samplers_that_draw_noise(sampler: str, eta: float | None, told: bool) -> None:
    result = result_of(GenerationRequest(prompt="p", sampler=sampler, eta=eta, eta_noise_seed_delta=31337))
    assert ("ENSD: 31337" in compose(result, 0)) == told


def test_what_only_some_passes_do_is_told_of_them() -> None:
    bent = SamplingShape(vp_start=True, rho=5)
    first = GenerationRequest(prompt="p", shape=bent, extra_noise=0.1, token_merging=0.3)
    assert keys_of(result_of(first)) == ["SGM noise multiplier"]
    assert "SGM noise multiplier" not in keys_of(
        result_of(dataclasses.replace(first, init=InitImage(images=(BLANK,))))
    )
    assert keys_of(result_of(dataclasses.replace(first, sampler="DDIM"))) == []
    second = dataclasses.replace(
        first, hires=HiresFix(64, 64, scale=2.0, upscaler_told=False), refiner_checkpoint="r"
    )
    result = result_of(second, hires_scheduler="Karras")
    assert keys_of(result) == [
        "Denoising strength", "Hires schedule type", "Hires upscale", "SGM noise multiplier", "Extra noise", "Refiner",
    ]  # fmt: skip
    assert "Token merging ratio: 0.3, Token merging ratio hr: 0.3" in compose(result, 0)
    both = dataclasses.replace(second, hires=HiresFix(64, 64, scale=2.0, refines=(True, True)))
    assert "Hires refiner: both passes, Refiner: r" in compose(result_of(both), 0)


def test_an_inpainting_network_tells_how_much_it_was_shown() -> None:
    request = GenerationRequest(prompt="p", inpainting_mask_weight=0.5, init=InitImage(images=(BLANK,)))
    assert "Conditional mask weight" not in compose(result_of(request), 0)
    assert "Denoising strength: 0.75, Conditional mask weight: 0.5, RNG" in compose(
        result_of(request, is_inpainting=True), 0
    )


def test_hires_fix_by_factor_and_by_size() -> None:
    hires = HiresFix(width=1024, height=768, upscaler="Lanczos", steps=7, denoising_strength=0.6, scale=2.0)
    by_factor = compose(result_of(GenerationRequest(prompt="p", width=512, height=384, hires=hires)), 0)
    assert "Denoising strength: 0.6, " in by_factor
    assert "Hires upscale: 2.0, Hires steps: 7, Hires upscaler: Lanczos, Version" in by_factor
    sized = dataclasses.replace(hires, scale=None)
    by_size = result_of(GenerationRequest(prompt="p", width=512, height=512, hires=sized))
    assert "Hires resize: 1024x768, Hires steps: 7" in compose(by_size, 0)
    assert "Hires upscale:" not in compose(by_size, 0)


def test_what_a1111_names_without_a_value() -> None:
    hires = HiresFix(1024, 768, upscaler="Lanczos", prompt="another", scale=2.0)
    result = result_of(GenerationRequest(prompt="p", hires=hires))
    assert "Hires prompt: another" in compose(result, 0)
    shown = extra_parameters(result, nulls=True)
    assert list(shown) == [
        "Denoising strength", "Hires prompt", "Hires negative prompt", "Hires schedule type", "Hires upscale",
        "Hires upscaler",
    ]  # fmt: skip
    assert shown["Hires prompt"] is None


def test_what_options_leave_out() -> None:
    result = result_of(GenerationRequest(prompt="p"), vae_name="v", vae_hash="h")
    quiet = InfotextOptions(version=None, model_name=False, model_hash=False, vae_name=False, vae_hash=False)
    assert compose(result, 0, quiet) == (
        "p\nSteps: 20, Sampler: Euler, Schedule type: Automatic, CFG scale: 7.0, Seed: 0, Size: 512x512, "
        "RNG: CPU"
    )


def test_each_image_has_its_own_seed() -> None:
    request = GenerationRequest(prompt="p", seed=10, batch_count=2)
    texts = [compose(result_of(request), index) for index in range(2)]
    assert [parse(text)["Seed"] for text in texts] == ["10", "11"]


HOSTILE = [
    "",
    "\n",
    " a ",
    "a\nSteps: 1, Seed: 2",
    "a\nSteps: 1, Sampler: Euler, Seed: 2, Size: 1x1",
    'say "hi", \\ "',
    "a: b: c, d",
    "日本\r\nx",
    "tab\tand\u2028separator",
    "Negative: prompt",
    "a Negative prompt: b",
]

line_of_prompt = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=40)
prompt_text = st.one_of(st.sampled_from(HOSTILE), st.lists(line_of_prompt, max_size=5).map("\n".join)).filter(
    lambda text: "Negative prompt:" not in text.replace("a Negative prompt: b", "")
)


@given(prompt=prompt_text, negative=st.one_of(prompt_text, st.just("x\nNegative prompt: y")))
def test_prompts_survive_the_round_trip(prompt: str, negative: str) -> None:
    result = result_of(GenerationRequest(prompt=prompt, negative_prompt=negative, seed=7))
    read = parse(compose(result, 0))
    # As in A1111 the text as a whole has no white space at its beginning.
    assert (read["Prompt"], read["Negative prompt"]) == (prompt.lstrip(), negative)
    assert read["Seed"] == "7"
    assert (read["Size-1"], read["Size-2"]) == ("512", "512")


@given(
    extra=st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z \-/]{0,20}[a-z]", fullmatch=True), st.text(max_size=30), max_size=5
    )
)
def test_values_survive_the_round_trip(extra: dict[str, str]) -> None:
    read = parse(compose(result_of(GenerationRequest(prompt="p")), 0, InfotextOptions(), extra))
    assert read["Prompt"] == "p"
    for key, value in extra.items():
        if not (key in {"Prompt"} or value.replace("x", "").isdigit()):
            assert read[key] == value


@given(text=st.one_of(st.text(), st.text(alphabet='ab:, "\\\n1x')))
def test_parsing_never_raises(text: str) -> None:
    read = parse(text)
    assert read.keys() >= {"Prompt", "Negative prompt"}
    assert all(isinstance(value, str) for value in read.values())


def test_a_text_of_a1111_itself() -> None:
    read = parse(
        "castle, (night:1.2)\nmoon\n"
        "Negative prompt: people,\ncars\n"
        "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, "
        'Model hash: 6ce0161689, Model: v1-5, Hires upscale: 2, Lora hashes: "a: b1, c: d2", Version: v1.10.1'
    )
    assert read["Prompt"] == "castle, (night:1.2)\nmoon"
    assert read["Negative prompt"] == "people,\ncars"
    assert read["Sampler"] == "DPM++ 2M"
    assert (read["Size-1"], read["Size-2"]) == ("512", "768")
    assert read["Lora hashes"] == "a: b1, c: d2"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [("", ""), ("just a prompt", "just a prompt"), ("a\nSteps: 2, Seed: 3", "a\nSteps: 2, Seed: 3")],
)
def test_fewer_than_three_pairs_are_prompt(text: str, prompt: str) -> None:
    read = parse(text)
    assert read == {"Prompt": prompt, "Negative prompt": ""}


def test_a_megabyte_of_anything_is_read() -> None:
    for unit in ("word ", "a:", 'k: "', "k: v, ", "\\", '"', "x" * 101 + "!:"):
        assert "Prompt" in parse(unit * (1_000_000 // len(unit)))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (7.0, "7.0"),
        ("a, b", '"a, b"'),
        ("a: b", '"a: b"'),
        ("a\nb", '"a\\nb"'),
        ('a "b"', 'a "b"'),
        ('"a"', '"\\"a\\""'),
    ],
)
def test_quoting(value: object, shown: str) -> None:
    assert quote(value) == shown
