"""Prompts to tensors, compared with what transformers and diffusers make of the same text."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextModel, CLIPTokenizer

from service.core.errors import BadRequest, Cancelled
from service.engine.conditioning import ClipEncoder, Conditioner, EncodingCache, StepConditioning
from service.engine.conditioning.conditioner import MAX_CHARACTERS, MAX_CHUNKS, MAX_ENCODINGS, MAX_PARTS

DEMO_MODEL = Path(__file__).parents[3] / "service" / "demo_model"


def encode_one(conditioner: Conditioner, prompt: str, **options: Any) -> torch.Tensor:
    """(L, D) of one prompt at the first step."""
    return conditioner.encode([prompt], [prompt], steps=10, **options).step(0).cond[0]


def diffusers_encode(pipeline: Any, prompt: str, clip_skip: int | None = None) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        encoded: tuple[torch.Tensor, ...] = pipeline.encode_prompt(
            prompt,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=clip_skip,
        )
    return encoded


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("prompt", ["", "a pretty cat", "A  Pretty\nHOUSE, dog", "cat, " * 30 + "x" * 15])
def test_plain_prompts_are_encoded_as_diffusers_does(pipelines: Any, family: str, prompt: str) -> None:
    pipeline = getattr(pipelines, family)
    reference = diffusers_encode(pipeline, prompt)
    step = Conditioner.of_pipeline(pipeline).encode([prompt], ["dog"], steps=10).step(0)
    assert torch.equal(step.cond, reference[0])
    if family == "sdxl":
        assert step.cond_pooled is not None
        assert torch.equal(step.cond_pooled, reference[2])
    else:
        assert step.cond_pooled is None
        assert step.both_pooled is None


def test_plain_prompts_are_encoded_as_transformers_does(pipelines: Any) -> None:
    model, tokenizer = pipelines.sd1.text_encoder, pipelines.sd1.tokenizer
    tokens = tokenizer(["a pretty cat"], padding="max_length", max_length=77, return_tensors="pt")
    with torch.no_grad():
        expected = model(tokens.input_ids).last_hidden_state[0]
    assert torch.equal(encode_one(Conditioner([ClipEncoder(model, tokenizer)]), "a pretty cat"), expected)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("clip_skip", [1, 2, 3, 4])
def test_clip_skip_counts_layers_from_the_end(pipelines: Any, family: str, clip_skip: int) -> None:
    """The oracle has its last layers cut off."""
    conditioner = Conditioner.of_pipeline(getattr(pipelines, family))
    (encoder,) = conditioner.encoders
    shorter = copy.deepcopy(encoder.model)
    shorter.encoder.layers = shorter.encoder.layers[: 5 - clip_skip]
    ids = encoder.tokenizer(["a cat"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = shorter(ids).last_hidden_state[0]
    assert torch.equal(encode_one(conditioner, "a cat", clip_skip=clip_skip), expected)


@pytest.mark.parametrize("clip_skip", [0, -1, 5, 12])
def test_a_layer_that_is_not_there_is_a_bad_request(pipelines: Any, clip_skip: int) -> None:
    with pytest.raises(BadRequest, match=r"from 1 .* to 4"):
        encode_one(Conditioner.of_pipeline(pipelines.sd1), "a cat", clip_skip=clip_skip)


def test_sdxl_ignores_clip_skip_unless_told_otherwise(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sdxl)
    plain = encode_one(conditioner, "a cat")
    assert torch.equal(encode_one(conditioner, "a cat", clip_skip=12), plain)
    skipped = encode_one(conditioner, "a cat", clip_skip=3, sdxl_clip_l_skip=True)
    reference = diffusers_encode(pipelines.sdxl, "a cat", 1)[0][0]
    assert torch.equal(skipped[:, :32], reference[:, :32])
    assert torch.equal(skipped[:, 32:], plain[:, 32:])


def test_shapes_of_sdxl(pipelines: Any) -> None:
    long = "cat " * 80
    conditioner = Conditioner.of_pipeline(pipelines.sdxl)
    step = conditioner.encode([long, "a AND b"], ["", long], steps=4).step(0)
    assert step.images == (0, 1, 1)
    assert step.cond.shape == (3, 2 * 77, 32 + 48)
    assert step.uncond.shape == (2, 2 * 77, 32 + 48)
    assert step.is_even
    assert step.both.shape == (5, 2 * 77, 32 + 48)
    assert step.both_pooled is not None
    assert step.both_pooled.shape == (5, 24)


def test_the_pooled_vector_is_that_of_the_first_chunk(pipelines: Any) -> None:
    step = Conditioner.of_pipeline(pipelines.sdxl).encode(["cat BREAK dog"], ["x"], steps=4).step(0)
    assert step.cond_pooled is not None
    assert torch.equal(step.cond_pooled, diffusers_encode(pipelines.sdxl, "cat")[2])


def test_sdxl_zeroes_an_empty_negative_prompt_and_nothing_else(pipelines: Any) -> None:
    step = Conditioner.of_pipeline(pipelines.sdxl).encode(["", "", ""], ["", "x", "[x::2]"], steps=4).step(4)
    assert step.uncond_pooled is not None
    assert not step.uncond[0].any()
    assert not step.uncond_pooled[0].any()
    assert step.uncond[1].any()
    assert step.uncond[2].any()
    assert step.cond.any()
    longer = Conditioner.of_pipeline(pipelines.sdxl).encode(["a BREAK b"], [""], steps=4).step(0)
    assert not longer.uncond.any()
    sd1 = Conditioner.of_pipeline(pipelines.sd1).encode([""], [""], steps=4).step(0)
    assert torch.equal(sd1.cond, sd1.uncond)


def test_the_refiner_has_the_second_encoder_only(pipelines: Any) -> None:
    refiner = copy.copy(pipelines.sdxl)
    refiner.text_encoder = refiner.tokenizer = None
    reference = diffusers_encode(pipelines.sdxl, "a cat")
    step = Conditioner.of_pipeline(refiner).encode(["a cat"], ["x"], steps=4).step(0)
    assert torch.equal(step.cond[0], reference[0][0, :, 32:])
    assert step.cond_pooled is not None
    assert torch.equal(step.cond_pooled, reference[2])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_long_prompts_are_their_chunks_in_a_row(pipelines: Any, family: str) -> None:
    conditioner = Conditioner.of_pipeline(getattr(pipelines, family))
    states = encode_one(conditioner, "cat " * 75 + "dog " * 75 + "house")
    parts = [encode_one(conditioner, text) for text in ("cat " * 75, "dog " * 75, "house")]
    assert torch.equal(states, torch.cat(parts))


def test_break_pads_its_chunk(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    states = encode_one(conditioner, "a cat BREAK dog")
    assert torch.equal(states, torch.cat([encode_one(conditioner, "a cat"), encode_one(conditioner, "dog")]))


def test_prompts_and_negative_prompts_keep_their_lengths(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    step = conditioner.encode(["cat BREAK dog BREAK house"], ["dog BREAK cat"], steps=4).step(0)
    assert torch.equal(step.cond[0], encode_one(conditioner, "cat BREAK dog BREAK house"))
    assert torch.equal(step.uncond[0], encode_one(conditioner, "dog BREAK cat"))
    assert not step.is_even
    assert step.padded == "none"


def test_rows_of_unequal_length_repeat_their_last_vector(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    step = conditioner.encode(["cat BREAK dog AND a"], ["x"], steps=4).step(0)
    alone = encode_one(conditioner, "a")
    assert torch.equal(step.cond[1], torch.cat([alone, alone[-1:].expand(77, -1)]))


def test_padding_on_request(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    long, short, empty = (encode_one(conditioner, text) for text in ("cat BREAK dog", "a", ""))
    for prompt, negative in (("cat BREAK dog", "a"), ("a", "cat BREAK dog")):
        step = conditioner.encode([prompt], [negative], steps=4, padding="empty").step(0)
        assert (step.is_even, step.padded) == (True, "empty")
        longer, shorter = (step.cond, step.uncond) if prompt != "a" else (step.uncond, step.cond)
        assert torch.equal(longer[0], long)
        assert torch.equal(shorter[0], torch.cat([short, empty]))
    step = conditioner.encode(["cat BREAK dog"], ["a"], steps=4, padding="last").step(0)
    assert torch.equal(step.uncond[0], torch.cat([short, short[-1:].expand(77, -1)]))
    step = conditioner.encode(["a"], ["cat BREAK dog"], steps=4, padding="last").step(0)
    assert torch.equal(step.uncond[0], long[:77])
    assert conditioner.encode(["a"], ["b"], steps=4, padding="last").step(0).padded == "none"


def test_texts_between_which_a_prompt_changes_are_of_one_length_and_share_a_mean(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    conditioning = conditioner.encode(["[a:cat BREAK dog:2] "], ["x"], steps=4)
    first = conditioning.step(0).cond[0]
    assert torch.equal(first, torch.cat([encode_one(conditioner, "a "), encode_one(conditioner, "")]))
    plain, weighted = "[cat:dog:2] house", "[cat:dog:2] (house:1.5)"
    states = {
        mode: torch.stack(
            [conditioner.encode([text], ["x"], steps=4, emphasis=mode).step(step).cond[0] for step in (0, 3)]
        )
        for text, mode in ((plain, "Ignore"), (weighted, "No norm"), (weighted, "Original"))
    }
    ratio = states["Ignore"].mean() / states["No norm"].mean()
    torch.testing.assert_close(states["Original"], states["No norm"] * ratio)


def test_emphasis_acts_on_the_output_of_its_words(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    plain = encode_one(conditioner, "a pretty cat")
    weighted = encode_one(conditioner, "a (pretty:1.5) cat", emphasis="No norm")
    factor = torch.ones(77, 1)
    factor[2] = 1.5  # start, "a", "pretty"
    torch.testing.assert_close(weighted, plain * factor)
    original = encode_one(conditioner, "a (pretty:1.5) cat")
    torch.testing.assert_close(original, weighted * plain.mean() / weighted.mean())
    assert torch.equal(encode_one(conditioner, "a (pretty:1.5) cat", emphasis="Ignore"), plain)
    literal = encode_one(conditioner, "a (pretty:1.5) cat", emphasis="None")
    assert torch.equal(literal, encode_one(conditioner, r"a \(pretty:1.5\) cat"))


def test_emphasis_of_sdxl_is_that_of_each_encoder(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sdxl)
    plain, weighted = (encode_one(conditioner, text) for text in ("a cat", "a (cat:1.3)"))
    for part in (slice(0, 32), slice(32, 80)):
        torch.testing.assert_close(weighted[:, part].mean(), plain[:, part].mean())


def test_editing_follows_the_steps(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    conditioning = conditioner.encode(["[cat:dog:3]", "a"], ["x", "[house:.5]"], steps=10)
    assert conditioning.is_scheduled
    cat, dog, house = (encode_one(conditioner, text) for text in ("cat", "dog", "house"))
    for step in range(12):
        now = conditioning.step(step)
        assert torch.equal(now.cond[0], cat if step <= 3 else dog)
        assert torch.equal(now.uncond[1], encode_one(conditioner, "") if step <= 5 else house)
    assert conditioning.step(1) is conditioning.step(2)


def test_nothing_changes_without_editing(pipelines: Any) -> None:
    conditioning = Conditioner.of_pipeline(pipelines.sd1).encode(["cat"], ["dog"], steps=10)
    assert not conditioning.is_scheduled
    assert conditioning.step(0) is conditioning.step(9)


def test_the_second_pass_has_a_schedule_of_its_own(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    conditioning = conditioner.encode(["[cat:dog:12]"], [""], steps=10, hires_steps=6)
    cat, dog = (encode_one(conditioner, text) for text in ("cat", "dog"))
    assert torch.equal(conditioning.step(2).cond[0], cat)
    assert torch.equal(conditioning.step(3).cond[0], dog)


def test_composition_gives_rows_and_guides_by_their_weights(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    step = conditioner.encode(["dog", "cat :1.5 AND house:-1"], ["x", "y AND z"], steps=10).step(0)
    assert step.images == (0, 1, 1)
    assert step.weights == (1.0, 1.5, -1.0)
    assert step.is_composed
    assert torch.equal(step.cond[1], encode_one(conditioner, "cat"))
    assert torch.equal(step.uncond[1], encode_one(conditioner, "y and z"))
    latents = torch.randn(2, 4, 8, 8)
    assert torch.equal(step.rows(latents), latents[[0, 1, 1]])
    cond, uncond = torch.randn(3, 4, 8, 8), torch.randn(2, 4, 8, 8)
    guided = step.guide(cond, uncond, 7.0)
    torch.testing.assert_close(guided[0], uncond[0] + 7 * (cond[0] - uncond[0]))
    torch.testing.assert_close(
        guided[1], uncond[1] + 7 * 1.5 * (cond[1] - uncond[1]) - 7 * (cond[2] - uncond[1])
    )


def test_a_single_weighted_part_is_composed() -> None:
    states = torch.zeros(1, 77, 4)
    step = StepConditioning(states, states, None, None, (0,), (0.5,))
    torch.testing.assert_close(step.guide(torch.ones(1, 1), torch.zeros(1, 1), 4.0), torch.full((1, 1), 2.0))


def test_plain_prompts_are_guided_as_ever(pipelines: Any) -> None:
    step = Conditioner.of_pipeline(pipelines.sd1).encode(["a", "b"], ["", ""], steps=10).step(0)
    cond, uncond = torch.randn(2, 4), torch.randn(2, 4)
    assert not step.is_composed
    assert torch.equal(step.guide(cond, uncond, 7.5), uncond + 7.5 * (cond - uncond))
    assert step.rows(cond) is cond


def test_images_of_a_batch_equal_images_alone(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sdxl)
    prompts, negatives = ["a cat", "(dog:1.2)", "pretty house"], ["x", "", "bad (y:.7)"]
    together = conditioner.encode(prompts, negatives, steps=4).step(0)
    for index, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = conditioner.encode([prompt], [negative], steps=4).step(0)
        assert torch.equal(together.cond[index], alone.cond[0])
        assert torch.equal(together.uncond[index], alone.uncond[0])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_textual_inversions_stand_for_their_vectors(pipelines: Any, family: str) -> None:
    """The oracle has the vectors in its vocabulary, as the letters é and ü, which nothing else uses."""
    pipeline = getattr(pipelines, family)
    encoders = Conditioner.of_pipeline(pipeline).encoders
    plain = encode_one(Conditioner.of_pipeline(pipeline), "dog")
    generator = torch.Generator().manual_seed(3)
    vectors = [torch.randn(2, encoder.width, generator=generator) for encoder in encoders]
    oracles = []
    for encoder, pair in zip(encoders, vectors, strict=True):
        model = copy.deepcopy(encoder.model)
        with torch.no_grad():
            for letter, vector in zip("§¶", pair, strict=True):
                (ids,) = encoder.tokenize([letter])
                model.get_input_embeddings().weight[ids[-1]] = vector
                assert (
                    len(ids) == 2
                )  # two bytes in UTF-8: the first is shared, the second is the letter's own
        oracles.append(ClipEncoder(model, encoder.tokenizer, encoder.layer, encoder.pools))
    conditioner = Conditioner.of_pipeline(
        pipeline, embeddings={"MyStyle": vectors if len(vectors) > 1 else vectors[0]}
    )
    conditioning = conditioner.encode(["a mystyle cat"], ["dog"], steps=4)
    assert conditioning.embeddings == ("MyStyle",)

    columns = []
    for encoder in oracles:
        (lead,), ((_, first),), ((_, second),), (tail,) = (
            encoder.tokenize([text]) for text in ("a", "§", "¶", "cat")
        )
        start, end, pad = (
            encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id, encoder.tokenizer.pad_token_id
        )  # fmt: skip
        ids = [start, *lead, first, second, *tail, end]
        ids += [pad] * (77 - len(ids))
        with torch.no_grad():
            output = encoder.model(torch.tensor([ids]), output_hidden_states=True)
        columns.append(output.last_hidden_state[0] if family != "sdxl" else output.hidden_states[-2][0])
    assert torch.equal(conditioning.step(0).cond[0], torch.cat(columns, dim=-1))
    assert torch.equal(conditioning.step(0).uncond[0], plain)
    assert torch.equal(encode_one(Conditioner.of_pipeline(pipeline), "dog"), plain)


def test_of_two_names_the_longer_one_is_meant(pipelines: Any) -> None:
    embeddings = {"cat": torch.zeros(1, 32), "cat house": torch.ones(32)}
    conditioner = Conditioner.of_pipeline(pipelines.sd1, embeddings=embeddings)
    assert conditioner.encode(["a cat house"], [""], steps=4).embeddings == ("cat house",)
    assert conditioner.encode(["a cat, house"], ["cat house"], steps=4).embeddings == ("cat", "cat house")


def test_embeddings_that_do_not_fit_are_named(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    skipped = conditioner.set_embeddings(
        {
            "wide": torch.zeros(1, 48),
            "long": torch.zeros(76, 32),
            "none": torch.zeros(0, 32),
            "pair": (torch.zeros(1, 32), torch.zeros(1, 48)),
            " ": torch.zeros(1, 32),
            "good": torch.zeros(75, 32),
        }
    )
    assert set(skipped) == {"wide", "long", "none", "pair", " "}
    assert conditioner.encode(["good cat"], ["wide"], steps=4).embeddings == ("good",)


def test_distinct_texts_are_encoded_once(pipelines: Any) -> None:
    runs: list[str] = []
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    conditioner.encode(
        ["[cat|dog]", "cat", "cat AND dog"],
        ["", "", "dog"],
        steps=10,
        raise_if_cancelled=lambda: runs.append("run"),
    )
    # "cat", "dog", "cat ", " dog", ""
    assert len(runs) == 5


def test_the_cache_answers_the_next_request(pipelines: Any) -> None:
    calls: list[str] = []
    cache = EncodingCache(on_hit=lambda: calls.append("hit"), on_miss=lambda: calls.append("miss"))
    conditioner = Conditioner.of_pipeline(pipelines.sdxl, key="one", cache=cache)
    first = conditioner.encode(["a cat"], ["x"], steps=4).step(0)
    assert (cache.hits, cache.misses) == (0, 2)
    again = conditioner.encode(["a cat"], ["y"], steps=9).step(0)
    assert (cache.hits, cache.misses) == (1, 3)
    assert calls == ["miss", "miss", "hit", "miss"]
    assert torch.equal(first.cond, again.cond)
    assert cache.bytes == 3 * 4 * (77 * 80 + 24)


@pytest.mark.parametrize(
    "options", [{"clip_skip": 2}, {"emphasis": "No norm"}, {"comma_backtrack": 0}, {"sdxl_clip_l_skip": True}]
)
def test_the_cache_tells_options_apart(pipelines: Any, options: dict[str, Any]) -> None:
    cache = EncodingCache()
    conditioner = Conditioner.of_pipeline(pipelines.sd1, cache=cache)
    encode_one(conditioner, "a (cat:1.2)")
    encode_one(conditioner, "a (cat:1.2)", **options)
    assert (cache.hits, cache.misses) == (0, 2)


def test_the_cache_tells_checkpoints_apart(pipelines: Any) -> None:
    cache = EncodingCache()
    one = encode_one(Conditioner.of_pipeline(pipelines.sd1, key="one", cache=cache), "a cat")
    two = encode_one(Conditioner.of_pipeline(pipelines.sd2, key="two", cache=cache), "a cat")
    assert cache.misses == 2
    assert not torch.equal(one, two)


def test_too_many_parts_or_chunks_are_bad_requests(pipelines: Any) -> None:
    conditioner = Conditioner.of_pipeline(pipelines.sd1)
    with pytest.raises(BadRequest, match=f"at most {MAX_PARTS}"):
        encode_one(conditioner, " AND ".join(["cat"] * (MAX_PARTS + 1)))
    with pytest.raises(BadRequest, match=f"at most {MAX_CHUNKS}"):
        encode_one(conditioner, "BREAK " * MAX_CHUNKS + "cat")
    options = "|".join(f"x{number}" for number in range(MAX_ENCODINGS // 50 + 1))
    with pytest.raises(BadRequest, match=f"more than {MAX_ENCODINGS} chunks"):
        conditioner.encode(["BREAK " * 50 + f"[{options}]"], [""], steps=150)
    with pytest.raises(BadRequest, match=f"at most {MAX_CHARACTERS} are"):
        encode_one(conditioner, " " * (MAX_CHARACTERS + 1))


def test_a_cancelled_request_stops_between_texts(pipelines: Any) -> None:
    def cancelled() -> None:
        raise Cancelled("The request was interrupted.", cause="interrupt")

    with pytest.raises(Cancelled):
        Conditioner.of_pipeline(pipelines.sd1).encode(["a"], [""], steps=4, raise_if_cancelled=cancelled)


def test_prompts_and_negative_prompts_come_in_pairs(pipelines: Any) -> None:
    with pytest.raises(ValueError, match="2 prompts, but 1 negative"):
        Conditioner.of_pipeline(pipelines.sd1).encode(["a", "b"], [""], steps=4)


@settings(max_examples=60, deadline=None)
@given(
    prompt=st.text(max_size=60) | st.text(alphabet="()[]:|.123 catANDBREAK,\ud800<|endoftext|>", max_size=60),
    emphasis=st.sampled_from(["Original", "No norm", "Ignore", "None"]),
    family=st.sampled_from(["sd1", "sd2", "sdxl"]),
)
def test_every_text_becomes_finite_conditioning(
    pipelines: Any, prompt: str, emphasis: str, family: str
) -> None:
    conditioner = Conditioner.of_pipeline(getattr(pipelines, family))
    conditioning = conditioner.encode([prompt], [prompt], steps=3, emphasis=emphasis)
    for step in range(3):
        now = conditioning.step(step)
        assert now.both.isfinite().all()
        assert now.cond.shape[1] == now.uncond.shape[1]
        assert now.cond.shape[1] % 77 == 0


def test_the_shipped_model_reads_plain_prompts_as_transformers_does() -> None:
    model = CLIPTextModel.from_pretrained(DEMO_MODEL / "text_encoder").eval()
    tokenizer = CLIPTokenizer.from_pretrained(DEMO_MODEL / "tokenizer")
    conditioner = Conditioner([ClipEncoder(model, tokenizer)])
    length = conditioner.encoders[0].chunk_tokens + 2
    tokens = tokenizer(["a pretty dog"], padding="max_length", max_length=length, return_tensors="pt")
    with torch.no_grad():
        expected = model(tokens.input_ids).last_hidden_state[0]
    assert torch.equal(encode_one(conditioner, "a pretty dog"), expected)
    assert not torch.equal(encode_one(conditioner, "a pretty (dog:1.3)"), expected)
