"""Names of samplers and schedulers, as clients spell them."""

import contextlib
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.catalogue.samplers import (
    AUTOMATIC,
    SAMPLERS,
    SCHEDULERS,
    Sampler,
    Scheduler,
    effective_scheduler,
    resolve,
)
from service.core.errors import UnknownName

SPELLINGS = [(spelling, sampler) for sampler in SAMPLERS for spelling in (sampler.name, *sampler.aliases)]
SUFFIXES = [
    (spelling, scheduler)
    for scheduler in SCHEDULERS
    for spelling in (scheduler.label, scheduler.name, *scheduler.aliases)
]


def names(resolved: tuple[Sampler, Scheduler]) -> tuple[str, str]:
    return resolved[0].name, resolved[1].label


def test_the_lists_are_complete_and_in_order() -> None:
    assert [sampler.name for sampler in SAMPLERS] == [
        "DPM++ 2M",
        "DPM++ SDE",
        "DPM++ 2M SDE",
        "DPM++ 2M SDE Heun",
        "DPM++ 2S a",
        "DPM++ 3M SDE",
        "Euler a",
        "Euler",
        "LMS",
        "Heun",
        "DPM2",
        "DPM2 a",
        "DPM fast",
        "DPM adaptive",
        "Restart",
        "DDIM",
        "DDIM CFG++",
        "PLMS",
        "UniPC",
        "LCM",
    ]
    assert [scheduler.label for scheduler in SCHEDULERS] == [
        "Automatic",
        "Uniform",
        "Karras",
        "Exponential",
        "Polyexponential",
        "SGM Uniform",
        "KL Optimal",
        "Align Your Steps",
        "Simple",
        "Normal",
        "DDIM",
        "Beta",
    ]


def test_options_are_strings() -> None:
    shown = {sampler.name: sampler.options for sampler in SAMPLERS}
    assert shown["DPM++ SDE"] == {"scheduler": "karras", "second_order": "True", "brownian_noise": "True"}
    assert shown["DPM++ 2M SDE Heun"] == {
        "scheduler": "exponential",
        "brownian_noise": "True",
        "solver_type": "heun",
    }
    assert shown["DPM2 a"] == {
        "scheduler": "karras",
        "discard_next_to_last_sigma": "True",
        "uses_ensd": "True",
        "second_order": "True",
    }
    assert shown["Euler"] == shown["DDIM CFG++"] == {}


@pytest.mark.parametrize(
    ("asked", "scheduler", "sampler", "label"),
    [
        ("Euler a", None, "Euler a", "Automatic"),
        ("euler A", "", "Euler a", "Automatic"),
        ("k_euler_a", "karras", "Euler a", "Karras"),
        ("K_EULER_ANCESTRAL", "KARRAS", "Euler a", "Karras"),
        ("DPM++ 2M Karras", None, "DPM++ 2M", "Karras"),
        ("DPM++ 2M Karras", "Automatic", "DPM++ 2M", "Karras"),
        ("DPM++ 2M Karras", "Exponential", "DPM++ 2M", "Exponential"),
        ("dpm++_2m_sde_karras", None, "DPM++ 2M SDE", "Karras"),
        ("DPM++ SDE Karras", "automatic", "DPM++ SDE", "Karras"),
        ("DPM++ 2M SDE Exponential", None, "DPM++ 2M SDE", "Exponential"),
        ("DPM++ 2M SDE Heun Karras", None, "DPM++ 2M SDE Heun", "Karras"),
        ("Euler a SGM Uniform", None, "Euler a", "SGM Uniform"),
        ("Euler SGMUniform", None, "Euler", "SGM Uniform"),
        ("Euler a Uniform", None, "Euler a", "Uniform"),
        ("LMS Polyexponential", None, "LMS", "Polyexponential"),
        ("DPM2 a Karras", None, "DPM2 a", "Karras"),
        ("k_dpmpp_2m_ka", None, "DPM++ 2M", "Karras"),
        ("k_dpmpp_2m_sde_exp", None, "DPM++ 2M SDE", "Exponential"),
        ("DDIM", "DDIM", "DDIM", "DDIM"),
        ("Euler DDIM", None, "Euler", "DDIM"),
        ("ddim_cfgpp", None, "DDIM CFG++", "Automatic"),
        ("  Heun  ", "align your steps", "Heun", "Align Your Steps"),
        ("LCM", "sgm-uniform", "LCM", "SGM Uniform"),
    ],
)
def test_resolve(asked: str, scheduler: str | None, sampler: str, label: str) -> None:
    assert names(resolve(asked, scheduler, strict=True)) == (sampler, label)
    assert names(resolve(asked, scheduler, strict=False)) == (sampler, label)


@given(st.sampled_from(SPELLINGS), st.sampled_from([*SUFFIXES, ("", AUTOMATIC)]), st.randoms(), st.booleans())
def test_every_name_in_any_case(
    spelling: tuple[str, Sampler], suffix: tuple[str, Scheduler], random: object, joined: bool
) -> None:
    def any_case(text: str) -> str:
        return "".join(random.choice((letter.upper(), letter.lower())) for letter in text)  # type: ignore[attr-defined]

    (name, sampler), (label, scheduler) = spelling, suffix
    asked = (any_case(f"{name} {label}"), None) if joined else (any_case(name), any_case(label))
    assert resolve(*asked, strict=True) == (sampler, scheduler)


def test_no_two_spellings_collide() -> None:
    """A sampler's name is never another's name with a schedule behind it."""
    for spelling, sampler in SPELLINGS:
        for suffix, scheduler in SUFFIXES:
            assert resolve(f"{spelling} {suffix}", None, strict=True) == (sampler, scheduler)


words = st.sampled_from(
    [*(spelling for spelling, _ in SPELLINGS), *(suffix for suffix, _ in SUFFIXES), "a", "++", "_"]
)


@given(
    st.text() | st.lists(words, max_size=4).map(" ".join),
    st.none() | st.text() | words,
)
@example("", None)
@example("Karras", None)
@example("a", "Karras")
@example("Euler a SGM", "Uniform")
@settings(max_examples=400)
def test_any_string_resolves_or_is_refused(sampler: str, scheduler: str | None) -> None:
    lenient = resolve(sampler, scheduler, strict=False)
    assert lenient[0] in SAMPLERS
    assert lenient[1] in SCHEDULERS
    with contextlib.suppress(UnknownName):
        assert resolve(sampler, scheduler, strict=True) == lenient
    assert effective_scheduler(*lenient) in SCHEDULERS


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match=r"'Euler b'.*DPM\+\+ 2M, .*LCM\."):
        resolve("Euler b", None, strict=True)
    with pytest.raises(UnknownName, match=r"'cosine'.*Automatic, .*Beta\."):
        resolve("Euler", "cosine", strict=True)
    assert names(resolve("Euler b", None, strict=False)) == ("DPM++ 2M", "Automatic")
    assert names(resolve("Euler b Karras", None, strict=False)) == ("DPM++ 2M", "Karras")
    assert names(resolve("Euler", "cosine", strict=False)) == ("Euler", "Automatic")


@pytest.mark.parametrize(
    ("asked", "scheduler", "label"),
    [
        ("DPM++ 2M", None, "Karras"),
        ("DPM++ 2M", "Uniform", "Uniform"),
        ("DPM++ 2M SDE", "Automatic", "Exponential"),
        ("Euler a", None, "Automatic"),
        ("LCM", None, "Automatic"),
        ("DDIM", "Karras", "Automatic"),
        ("UniPC", "Beta", "Automatic"),
    ],
)
def test_effective_scheduler(asked: str, scheduler: str | None, label: str) -> None:
    assert effective_scheduler(*resolve(asked, scheduler, strict=True)).label == label


def test_torch_is_not_needed() -> None:
    code = "import sys, service.catalogue.samplers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
