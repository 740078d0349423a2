"""The plan: what fits, which measures are chosen, and that more never takes less."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.weights import read_header
from service.core.generation import GenerationRequest, HiresFix
from service.plan.architecture import Architecture
from service.plan.measures import AUTO, NONE, Measure, Measures, cost
from service.plan.planner import choose_plan, make_plan
from service.plan.platform import GIB, cpu, cuda
from service.plan.report import as_json, cure, largest, line, manifest_values
from service.plan.work import Work, work_of

SLICE = cuda(int(5.5 * GIB))


def test_weights_are_counted_from_headers(architectures: dict[str, Architecture]) -> None:
    sd1, sdxl = architectures["sd1"], architectures["sdxl"]
    # Published: 859.5 million numbers in the UNet, 123.1 in the text encoder, 83.7 in the VAE; SDXL's UNet 2567.5.
    assert sd1.parts["unet"].numbers == 859_520_964
    assert sd1.parts["text_encoder"].numbers == 123_060_480
    assert sd1.parts["vae"].numbers == 83_653_863
    assert sdxl.parts["unet"].numbers == 2_567_463_684
    assert sd1.size(sd1.parts, 2) == 2 * sd1.size(sd1.parts, 1)
    assert sd1.size(["unet"], 2, fp8=True) == pytest.approx(sd1.size(["unet"], 1), rel=0.01)
    assert sd1.native_size == 512
    assert sdxl.native_size == 1024


def test_the_slice_of_the_report(architectures: dict[str, Architecture]) -> None:
    """SD 1.5, half precision, 5.5 GiB: 512×512 with hires to 768 fits, a batch too large is told what to do."""
    served = choose_plan(architectures["sd1"], Work(512, 512, hires=(768, 768)), SLICE, 2, AUTO)
    assert served.fits
    assert served.measures == NONE
    refused = choose_plan(architectures["sd1"], Work(1024, 1024, 8), SLICE, 2, NONE)
    assert not refused.fits
    assert "batch_size" in cure(refused, NONE)
    sizes = largest(refused, NONE)
    assert choose_plan(architectures["sd1"], Work(1024, 1024, sizes["batch"]), SLICE, 2, NONE).fits


def test_the_cheapest_measures_are_chosen(architectures: dict[str, Architecture]) -> None:
    work = Work(1024, 1024)
    plain = make_plan(architectures["sdxl"], work, cuda(0), 2)
    for spare in (0.02, 0.5, 1.5, 3.0, 5.0):
        slice_ = cuda(int(plain.peak - spare * GIB))
        chosen = choose_plan(architectures["sdxl"], work, slice_, 2, AUTO)
        assert chosen.fits, spare
        for measure in chosen.measures:  # none of them is there for nothing
            assert not make_plan(architectures["sdxl"], work, slice_, 2, chosen.measures - {measure}).fits
    assert choose_plan(architectures["sdxl"], work, cuda(plain.peak), 2, AUTO).measures == NONE


def test_what_the_operator_allows_is_what_may_be_chosen(architectures: dict[str, Architecture]) -> None:
    only: Measures = frozenset({Measure.VAE_TILING})
    plan = choose_plan(architectures["sd1"], Work(1536, 1536), cuda(int(4 * GIB)), 2, only)
    assert plan.measures <= only
    assert "SD_MEASURES" in cure(plan, only) or plan.fits


@given(
    width=st.integers(8, 160), height=st.integers(8, 160), batch=st.integers(1, 8),
    measures=st.frozensets(st.sampled_from(Measure)), family=st.sampled_from(["sd1", "sdxl"]), on_cpu=st.booleans(),
)  # fmt: skip
def test_more_never_takes_less(
    architectures: dict[str, Architecture], width: int, height: int, batch: int, measures: Measures, family: str,
    on_cpu: bool,
) -> None:  # fmt: skip
    architecture, platform = architectures[family], (cpu(0) if on_cpu else cuda(0))
    work = Work(8 * width, 8 * height, batch)
    plan = make_plan(architecture, work, platform, 2, measures)
    for larger in (
        replace(work, width=work.width + 64), replace(work, height=work.height + 64), replace(work, batch=batch + 1),
        replace(work, hires=(work.width, work.height)), replace(work, guided=2), replace(work, networks=GIB),
    ):  # fmt: skip
        assert make_plan(architecture, larger, platform, 2, measures).peak >= plan.peak
    assert make_plan(architecture, work, platform, 4, measures).peak > plan.peak


@pytest.mark.parametrize("measure", Measure)
def test_each_measure_saves_where_it_is_meant_to(
    architectures: dict[str, Architecture], measure: Measure
) -> None:
    work = (
        Work(1024, 1024, 4)
        if measure in (Measure.GUIDANCE_IN_TURNS, Measure.ATTENTION_SLICING)
        else Work(768, 768)
    )
    plain = make_plan(architectures["sd1"], work, cuda(0), 2)
    with_it = make_plan(architectures["sd1"], work, cuda(0), 2, frozenset({measure}))
    assert sum(stage.bytes for stage in with_it.stages) + with_it.workspaces <= (
        sum(stage.bytes for stage in plain.stages) + plain.workspaces
    )
    assert with_it.peak < plain.peak or measure in (Measure.GUIDANCE_IN_TURNS, Measure.ATTENTION_SLICING)
    assert cost({measure}) > 0


def test_requests_become_work() -> None:
    request = GenerationRequest(
        "a AND b AND c", width=512, height=768, batch_size=2, batch_count=3,
        hires=HiresFix(1024, 1536, upscaler="Lanczos"),
    )  # fmt: skip
    work = work_of(request)
    assert (work.rows, work.count, work.hires_in_pixels, work.upscaler) == (8, 6, True, None)
    assert work_of(replace(request, prompt="a", guidance_scale=1.0)).rows == 2
    assert work_of(replace(request, hires=HiresFix(1024, 1536))).hires_in_pixels is False
    assert work_of(replace(request, hires=HiresFix(1024, 1536, upscaler="4x-Ultra"))).upscaler is not None


def test_the_report_has_what_programs_need(architectures: dict[str, Architecture]) -> None:
    plan = choose_plan(architectures["sdxl"], Work(1024, 1024), cuda(int(8 * GIB), "cGPU"), 2, AUTO)
    report = as_json(plan, AUTO)
    assert {"fits", "peak_gib", "limit_gib", "stage", "measures", "largest"} <= report.keys()
    assert report["fits"] is True
    assert report["peak_gib"] <= 8 < report["peak_without_measures_gib"]
    assert report["largest"]["side"] >= 1024
    assert report["kubernetes"]["aliyun.com/gpu-mem"] == "8"
    assert "cGPU" in line(plan)
    assert manifest_values(make_plan(architectures["sd1"], Work(512, 512), cpu(0), 4))[
        "resources.limits.memory"
    ]


def test_sdxl_decodes_in_single_precision_unless_its_vae_says_otherwise(
    architectures: dict[str, Architecture],
) -> None:
    sdxl = architectures["sdxl"]
    vae = sdxl.parts["vae"]
    fixed = replace(
        sdxl, parts={**sdxl.parts, "vae": replace(vae, config={**vae.config, "force_upcast": False})}
    )
    work = Work(1024, 1024)
    assert make_plan(fixed, work, cuda(0), 2).peak < make_plan(sdxl, work, cuda(0), 2).peak


def test_headers_are_all_that_is_read(folders: dict[str, object]) -> None:
    from pathlib import Path

    file = Path(str(folders["sd1"])) / "unet/model.safetensors"
    assert file.stat().st_size > 1.6 * GIB
    assert file.stat().st_blocks * 512 < GIB / 1000
    assert read_header(file)
