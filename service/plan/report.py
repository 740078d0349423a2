"""A plan as people and programs read it: tables, JSON, one line for the log, and the values for manifests."""

from dataclasses import replace
from math import ceil, floor
from typing import Any, Final

from service.plan.measures import AUTO, NATURE, NONE, Measure, Measures, in_order
from service.plan.planner import Plan, choose_plan, gib, largest_batch, largest_square, resized
from service.plan.platform import GIB

MIG: Final = (
    ("1g.5gb", 4.75), ("1g.6gb", 5.8), ("1g.10gb", 9.5), ("2g.12gb", 11.7), ("1g.20gb", 19.5), ("4g.24gb", 23.5),
    ("3g.40gb", 39.0), ("7g.80gb", 79.0),
)  # fmt: skip
"""NVIDIA's profiles by the GiB that CUDA reports in them (A30, A100, H100), the smallest first."""


def largest(plan: Plan, allowed: Measures, on: Measures = NONE) -> dict[str, int]:
    """The largest square at the plan's batch, and the largest batch at its size.

    Measures are chosen among the ``allowed`` ones, ``on`` are in force anyway.
    """

    def fits(**changes: Any) -> bool:
        side = changes.pop("side", None)
        work = replace(plan.work, **changes)
        work = work if side is None else resized(work, side)
        work = replace(work, images=max(work.images, work.batch) if plan.work.images else 0)
        return choose_plan(
            plan.architecture,
            work,
            plan.platform,
            plan.itemsize,
            allowed,
            on | (plan.measures & allowed),
            plan.kept,
        ).fits

    if not plan.platform.limit:
        return {"side": 0, "batch": 0}
    return {
        "side": largest_square(lambda side: fits(side=side)),
        "batch": largest_batch(lambda n: fits(batch=n)),
    }


def as_json(plan: Plan, allowed: Measures) -> dict[str, Any]:
    """All of it; sizes in GiB."""
    plain = choose_plan(
        plan.architecture, plan.work, plan.platform, plan.itemsize, frozenset(), kept=plan.kept
    )
    return {
        "model": plan.architecture.title,
        "work": {
            "width": plan.work.width, "height": plan.work.height, "batch": plan.work.batch,
            "hires": list(plan.work.hires) if plan.work.hires else None,
        },
        "device": plan.platform.kind,
        "bytes_per_number": plan.itemsize,
        "fits": plan.fits,
        "peak_gib": gib(plan.peak),
        "limit_gib": gib(plan.platform.limit) if plan.platform.limit else None,
        "limit_from": plan.platform.source,
        "stage": plan.stage.name,
        "measures": [str(measure) for measure in in_order(plan.measures)],
        "peak_without_measures_gib": gib(plain.peak),
        "largest": largest(plan, allowed),
        "largest_without_measures": largest(plain, frozenset()),
        "weights_gib": {name: gib(part.size(plan.itemsize)) for name, part in plan.architecture.parts.items()},
        "fixed_gib": {
            "context" if plan.platform.is_cuda else "process": gib(plan.platform.base),
            "workspaces": gib(plan.workspaces),
            "other_checkpoints": gib(plan.kept),
            "networks": gib(plan.work.networks),
        },
        "fragmentation": plan.fragmentation,
        "stages": [
            {
                "stage": stage.name, "weights_gib": gib(stage.weights), "activations_gib": gib(stage.activations),
                "others_gib": gib(stage.others),
            }
            for stage in plan.stages
        ],
        "what_measures_save": savings(plan),
        "kubernetes": manifest_values(plan),
    }  # fmt: skip


def savings(plan: Plan) -> list[dict[str, Any]]:
    """Each measure alone: the peak with it, what it costs in time, and what it does to the picture."""
    rows = []
    for measure in in_order(AUTO):
        if not plan.platform.is_cuda and not NATURE[measure].cpu:
            continue
        alone = choose_plan(
            plan.architecture,
            plan.work,
            plan.platform,
            plan.itemsize,
            frozenset(),
            frozenset({measure}),
            plan.kept,
        )
        rows.append(
            {
                "measure": str(measure), "peak_gib": gib(alone.peak), "time": NATURE[measure].time,
                "picture": NATURE[measure].picture,
            }
        )  # fmt: skip
    return rows


def manifest_values(plan: Plan) -> dict[str, Any]:
    """What to write into ``knative/``: whole GiB for cGPU, the smallest MIG profile, the pod's memory."""
    needed = plan.peak / GIB
    pod = ceil(plan.main_memory / GIB * 2) / 2
    values: dict[str, Any] = {
        "resources.requests.memory": f"{pod:g}Gi",
        "resources.limits.memory": f"{ceil(pod * 1.5)}Gi",
    }
    if not plan.platform.is_cuda:
        values["resources.limits.memory"] = f"{ceil(needed * 1.1)}Gi"
        return values
    profile = next((name for name, size in MIG if size >= needed), None)
    values |= {
        "aliyun.com/gpu-mem": str(ceil(needed)),
        "nvidia.com/mig": profile and f"nvidia.com/mig-{profile}",
        "SD_GPU_MEMORY_GIB": str(ceil(needed * 2) / 2),
        "time-slicing replicas on 22 GiB": floor(22 / (ceil(needed * 2) / 2)),
    }
    return values


def line(plan: Plan) -> str:
    """For the log."""
    measures = ", ".join(in_order(plan.measures)) or "none"
    limit = f" of {plan.platform.limit / GIB:.2f} GiB ({plan.platform.source})" if plan.platform.limit else ""
    verdict = "fits" if plan.fits else "does not fit"
    return (
        f"{plan.work} {verdict}: {plan.peak / GIB:.2f} GiB{limit} at its peak ({plan.stage.name}), "
        f"measures: {measures}"
    )


def cure(plan: Plan, allowed: Measures) -> str:
    """What to change so that it fits: a sentence's second half."""
    # With the plan's own measures: those that save most, where none of their sets was enough.
    sizes = largest(replace(plan, measures=NONE), NONE, plan.measures)
    advice = []
    if sizes["side"] >= 64 and sizes["side"] < max(plan.work.width, plan.work.height):
        advice.append(f"lower the size (up to {sizes['side']}×{sizes['side']} fits)")
    if plan.work.batch > 1:
        fitting = sizes["batch"]
        advice.append(f"lower the batch_size (to {fitting})" if fitting else "lower the batch_size")
    if plan.work.hires is not None:
        advice.append("lower the hires scale")
    further = choose_plan(
        plan.architecture, plan.work, plan.platform, plan.itemsize, AUTO, plan.measures, plan.kept
    )
    if further.fits and (missing := in_order(further.measures - plan.measures)):
        advice.append(f"let the operator allow {', '.join(missing)} (SD_MEASURES)")
    if not advice:
        advice.append(
            "give this pod more memory"
            if not plan.platform.is_cuda
            else "give this pod a larger GPU or slice"
        )
    return ", or ".join(advice)


def measure_names(measures: Measures) -> list[str]:
    """Their names, the cheapest first."""
    return [str(Measure(measure)) for measure in in_order(measures)]
