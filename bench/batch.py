"""A batch of 1,000 rows against the bare engine loop: same process, same engine, in turns. The last line is one JSON object.

The loop calls the engine with requests that are ready, and drops the pictures. The batch reads its rows, prepares, makes,
encodes, writes and synchronises them, and keeps the manifest. They take turns of ``--turn`` rows, so that what else the
machine does meets both; the goal is a ratio of throughputs of at least 0.97. Memory is that of the whole process: its
mean over the last third of the turns, over that of the middle third.

    python -m bench.batch [--rows 1000] [--turn 50] [--steps 8] [--side 256]
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.process import memory_of
from service import logs
from service.api.sdapi.prepared import prepare
from service.api.sdapi.schemas import Txt2ImgBody
from service.api.sdapi.styles import StyleBook
from service.batch import readers
from service.batch.bar import Bar
from service.batch.local import Local, local
from service.batch.makers import Made
from service.batch.manifest import PICTURES, Manifest
from service.batch.pictures import PictureFolder
from service.batch.plan import Shard, plan
from service.batch.rows import Kind
from service.batch.run import Batch, carry_out
from service.batch.tracking import NoTracker
from service.core.cancel import CancelToken
from service.core.generation import GenerationRequest
from service.engine.engine import DiffusersEngine
from service.settings import Settings


class InTurns:
    """A maker that makes as many rows as it is told to, and then waits for its next turn."""

    def __init__(self, maker: Local) -> None:
        self._maker = maker
        self.turn = asyncio.Semaphore(0)

    async def make(self, kind: Kind, body: Mapping[str, Any]) -> Made:
        """One row of this turn."""
        await self.turn.acquire()
        return await self._maker.make(kind, body)

    async def model(self) -> str:
        """The maker's."""
        return await self._maker.model()

    async def memory(self) -> Mapping[str, float]:
        """The maker's."""
        return await self._maker.memory()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--turn", type=int, default=50)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--side", type=int, default=256)
    print(json.dumps(asyncio.run(_measure(parser.parse_args()))))


async def _measure(chosen: argparse.Namespace) -> dict[str, Any]:
    settings = Settings.read(log_level="ERROR")
    logs.configure(settings)
    engine = DiffusersEngine(settings)
    size = {"steps": chosen.steps, "width": chosen.side, "height": chosen.side, "sampler_name": "Euler"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "rows.jsonl"
        source.write_text(  # noqa: ASYNC240 - nothing else runs yet
            "".join(json.dumps({"prompt": f"{n} red apples", **size}) + "\n" for n in range(chosen.rows))
        )
        requests = plan(readers.read(source))
        async with local(settings, make_engine=lambda: engine) as maker:
            bare = [
                prepare(
                    Txt2ImgBody(prompt=f"{n} green pears", seed=n, **size), (), settings, engine.catalogue(), StyleBook()
                ).generation
                for n in range(chosen.rows)
            ]  # fmt: skip
            with Manifest(folder, requests, Shard()) as manifest, Bar(chosen.rows, 0, 0) as bar:
                manifest.open()
                (folder / PICTURES).mkdir()
                batch = Batch(folder, requests, Shard(), PictureFolder(folder), 2, {})
                turns = InTurns(maker)
                running = asyncio.create_task(carry_out(batch, turns, manifest, bar, NoTracker()))
                ours, theirs, resident = [], [], []
                for start in range(0, chosen.rows, chosen.turn):
                    count = min(chosen.turn, chosen.rows - start)
                    pair = [_batch_turn(turns, manifest, start + count), _bare_turn(engine, bare[start : start + count])]
                    for which in (0, 1) if start // chosen.turn % 2 else (1, 0):
                        (ours, theirs)[which].append(count / await pair[which])
                    resident.append(memory_of("self"))
                began = time.perf_counter()
                assert await running == 0
                finishing = time.perf_counter() - began
    pairs = [mine / other for mine, other in zip(ours[1:], theirs[1:], strict=True)]
    third = len(resident) // 3
    middle, last = resident[third : 2 * third], resident[2 * third :]
    return {
        "throughput_over_bare_loop": round(statistics.median(pairs), 4),
        "throughput_over_bare_loop_quartiles": [round(one, 4) for one in statistics.quantiles(pairs, n=4)],
        "resident_last_third_over_middle_third": round(statistics.mean(last) / statistics.mean(middle), 4),
        "resident_mib_at_end": round(resident[-1] / 2**20, 1),
        "rows": chosen.rows,
        "seconds_a_row_bare": round(1 / statistics.median(theirs), 4),
        "seconds_of_manifest_and_sheet_at_the_end": round(finishing, 2),
    }  # fmt: skip


async def _batch_turn(turns: InTurns, manifest: Manifest, until: int) -> float:
    """Seconds in which the batch gets to ``until`` rows."""
    began = time.perf_counter()
    for _ in range(until - len(manifest.done)):
        turns.turn.release()
    while len(manifest.done) < until:
        await asyncio.sleep(0.001)
    return time.perf_counter() - began


async def _bare_turn(engine: DiffusersEngine, requests: list[GenerationRequest]) -> float:
    """Seconds for the engine alone."""

    def loop() -> None:
        for request in requests:
            engine.generate(request, CancelToken(), lambda progress: None)

    began = time.perf_counter()
    await asyncio.to_thread(loop)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
