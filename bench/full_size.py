"""Planned against measured peaks: the networks of SD 1.5, SD 2.1 and SDXL at full size, with numbers in them.

Each network (random weights) runs on this CPU, and the allocator's own count of what it takes at most beside weights is
held against the plan's: UNets for an image of 256 to 1024 pixels with guidance, alone and in a batch of four, plain and
with each measure; autoencoders both ways, plain and in tiles. It takes about an hour and 14 GB of main memory on
two cores. The last line is one JSON object.

    python -m bench.full_size [--families sd1,sd2,sdxl] [--most 1024] [--dtype bfloat16]
"""

import argparse
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

import torch
from rich.console import Console
from rich.table import Table

from bench.activations import counted, dressed, step, translate
from service.catalogue.layouts import configuration
from service.engine import measures
from service.engine.weights import loading
from service.plan.architecture import Part
from service.plan.measures import Measure
from service.plan.networks.autoencoder import decode_peak, encode_peak
from service.plan.networks.blocks import WHOLE, Slicing
from service.plan.networks.unet import unet_peak
from service.plan.stages import SLICE, TILES, tiled_peak
from service.plan.tape import CPU

SIDES: Final = (256, 512, 768, 1024)
BATCHES: Final = (1, 4)
COSTLY: Final = 8 * 1024 * 1024
"""Pixels × rows of the UNet at most for SDXL, whose batch of four at 1024 pixels takes many minutes on a CPU."""


@dataclass(frozen=True, slots=True)
class Row:
    """One network at one size: bytes beside the weights."""

    family: str
    network: str
    side: int
    batch: int
    measure: str
    planned: int
    measured: int

    @property
    def ratio(self) -> float:
        """Planned ÷ measured."""
        return self.planned / self.measured


def unets(family: str, most: int, dtype: torch.dtype) -> Iterator[Row]:
    """The UNet for each size and batch, plain and with the measures that change its calls."""
    config = configuration(family)["unet"]
    network: Any = dressed(loading.build("unet", "UNet2DConditionModel", dict(config)), dtype)
    for side in (side for side in SIDES if side <= most):
        for batch in BATCHES:
            rows, cells = 2 * batch, side // 8
            if family == "sdxl" and rows * side * side >= COSTLY:
                continue
            for measure in (None, Measure.ATTENTION_SLICING, Measure.GUIDANCE_IN_TURNS):
                if measure is not None and (batch > 1 or side == SIDES[0]):
                    continue
                with ExitStack() as stack:
                    measures.put_on(stack, network, None, frozenset({measure} if measure else ()))
                    measured = counted(step(network, rows, cells, cells))
                planned = unet_peak(
                    config,
                    1 if measure is Measure.GUIDANCE_IN_TURNS else rows,
                    cells,
                    cells,
                    dtype.itemsize,
                    slicing=Slicing(SLICE) if measure is Measure.ATTENTION_SLICING else WHOLE,
                )
                yield Row(family, "UNet", side, batch, str(measure or ""), planned, measured)


def autoencoders(family: str, most: int, dtype: torch.dtype) -> Iterator[Row]:
    """The VAE for each size, both ways, plain and in tiles."""
    config = configuration(family)["vae"]
    network: Any = dressed(loading.build("vae", "AutoencoderKL", dict(config)), dtype)
    part = Part("vae", config, 0, 0)
    for side in (side for side in SIDES if side <= most):
        for name, encode, peak in (("VAE decode", False, decode_peak), ("VAE encode", True, encode_peak)):
            for measure in (None, Measure.VAE_TILING, Measure.VAE_SMALL_TILES):
                tile = TILES[measure] if measure else 0
                if measure is not None and side <= tile:
                    continue
                with ExitStack() as stack:
                    measures.put_on(stack, None, network, frozenset({measure} if measure else ()))
                    measured = counted(translate(network, side, side, encode=encode))
                planned = tiled_peak(peak, part, side, side, dtype.itemsize, CPU, tile)
                yield Row(family, name, side, 1, str(measure or ""), planned, measured)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default="sd1,sd2,sdxl")
    parser.add_argument("--most", type=int, default=SIDES[-1], help="the largest side in pixels")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    chosen = parser.parse_args()
    dtype = getattr(torch, chosen.dtype)
    rows: list[Row] = []
    for family in chosen.families.split(","):
        for networks in (autoencoders, unets):
            for row in networks(family, chosen.most, dtype):
                rows.append(row)
                print(f"{row} {row.ratio:.4f}", file=sys.stderr, flush=True)
            gc.collect()
    table = Table(
        "network", "measure", "sizes", "planned ÷ measured", "largest peak, MiB", title=chosen.dtype
    )
    results: dict[str, Any] = {"dtype": chosen.dtype, "cases": len(rows)}
    for kind in dict.fromkeys((row.family, row.network, row.measure) for row in rows):
        same = [row for row in rows if (row.family, row.network, row.measure) == kind]
        low, high = min(row.ratio for row in same), max(row.ratio for row in same)
        largest = max(row.measured for row in same) / 2**20
        table.add_row(
            f"{kind[0]} {kind[1]}", kind[2], str(len(same)), f"{low:.3f} to {high:.3f}", f"{largest:.0f}"
        )
        results["_".join(filter(None, kind)).replace(" ", "_").replace("-", "_")] = [
            round(low, 4),
            round(high, 4),
        ]
    Console(stderr=True).print(table)
    results["worst"] = round(max(abs(row.ratio - 1) for row in rows), 4)
    results["within_10_percent"] = sum(abs(row.ratio - 1) <= 0.1 for row in rows)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
