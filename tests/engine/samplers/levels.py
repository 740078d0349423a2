"""Evenly spaced noise levels for every sampler: as many steps as asked for, which A1111 does not always take."""

import torch
from torch import Tensor

from service.catalogue.samplers import AUTOMATIC, SAMPLERS
from service.engine.samplers.schedules import sampler_sigmas, timestep_to_sigma

_BY_NAME = {sampler.name: sampler for sampler in SAMPLERS}


def levels_of(name: str, steps: int, table: Tensor) -> Tensor:
    """``steps + 1`` descending levels; those of DDIM, PLMS and UniPC end at the table's lowest."""
    sampler = _BY_NAME[name]
    if not sampler.own_schedule:
        return sampler_sigmas(sampler, AUTOMATIC, steps, table)
    count = len(table)
    if name == "UniPC":
        return timestep_to_sigma(torch.linspace(count - 1, 0, steps + 1), table)
    if steps == 1:
        return table[[count - 1, 0]]
    return table[[*(min(i * count // steps + 1, count - 1) for i in reversed(range(steps))), 0]]
