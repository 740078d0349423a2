"""A batch of 1,000 rows against the bare engine loop: same process, same engine, in turns.

The loop calls the engine with requests that are ready, and drops the pictures. The batch prepares, makes, encodes,
writes and synchronises them, and keeps the manifest. They take turns of ``--turn`` rows, so that what else the machine
does meets both; the goal is a ratio of throughputs of at least 0.97. Memory is that of the whole process: its mean over
the last third of the turns, over that of the middle third. The last line is one JSON object.

    python -m bench.batch [--rows 1000] [--turn 50] [--steps 8] [--side 256]
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.process import Running
from service import logs
from service.api.sdapi.prepared import prepare
from service.api.sdapi.schemas import Txt2ImgBody
from service.api.sdapi.styles import StyleBook
from service.batch import readers
from service.batch.bar import Bar
from service.batch.local import Local, local
from service.batch.makers import Made
from service.batch.manifest import PICTURES, Line, Manifest
from service.batch.pictures import PictureFolder
from service.batch.plan import Shard, plan
from service.batch.rows import Kind
from service.batch.run import Batch, carry_out
from service.batch.tracking import Memory, Overrides
from service.core.cancel import CancelToken
from service.core.generation import GenerationRequest
from service.engine.engine import DiffusersEngine
from service.settings import Settings


class InTurns:
    """A maker that makes as many rows as it is told to, and then waits for its next turn; a tracker that knows when."""

    overrides = Overrides()

    def __init__(self, maker: Local) -> None:
        self._maker = maker
        self._may = asyncio.Semaphore(0)
        self._left = 0
        self._done = asyncio.Event()

    async def take(self, rows: int) -> float:
        """Seconds in which the batch makes its next ``rows``."""
        began = time.perf_counter()
        self._left = rows
        self._done.clear()
        for _ in range(rows):
            self._may.release()
        await self._done.wait()
        return time.perf_counter() - began

    def stop(self) -> None:
        """The batch has ended, whatever was left of the turn."""
        self._done.set()

    async def row(self, lines: Sequence[Line], folder: Path, memory: Memory) -> None:
        """One row is kept."""
        self._left -= 1
        if not self._left:
            self._done.set()

    async def finish(self, manifest: Manifest, pages: Sequence[Path]) -> None:
        """All turns are over."""

    async def make(self, kind: Kind, body: Mapping[str, Any]) -> Made:
        """One row of this turn."""
        await self._may.acquire()
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
        source.write_text(
            "".join(json.dumps({"prompt": f"{n} red apples", **size}) + "\n" for n in range(chosen.rows))
        )
        requests = plan(readers.read(source))
        async with local(settings, make_engine=lambda: engine) as maker:
            bare = [
                _request({"prompt": f"{n} green pears", "seed": n, **size}, settings, engine)
                for n in range(chosen.rows)
            ]
            with Manifest(folder, requests, Shard()) as manifest, Bar(chosen.rows, 0, 0) as bar:
                manifest.open()
                (folder / PICTURES).mkdir()
                batch = Batch(folder, requests, Shard(), PictureFolder(folder), 2, {})
                turns = InTurns(maker)
                running = asyncio.create_task(carry_out(batch, turns, manifest, bar, turns))
                running.add_done_callback(lambda _: turns.stop())
                wall: dict[str, list[float]] = {"batch": [], "loop": []}
                processor: dict[str, list[float]] = {"batch": [], "loop": []}
                resident: list[int] = []
                for start in range(0, chosen.rows, chosen.turn):
                    asked = bare[start : start + chosen.turn]
                    # The batch is last in the last turn: what it does at its end is not the loop's to wait for.
                    last = start + chosen.turn >= chosen.rows
                    for which in ("loop", "batch") if last or start // chosen.turn % 2 else ("batch", "loop"):
                        spent = time.process_time()
                        seconds = await (turns.take(len(asked)) if which == "batch" else _loop(engine, asked))
                        wall[which].append(seconds / len(asked))
                        processor[which].append((time.process_time() - spent) / len(asked))
                    resident.append(Running("", os.getpid()).resident_bytes())
                began = time.perf_counter()
                assert await running == 0
                finishing = time.perf_counter() - began
    pairs = [loop / mine for loop, mine in zip(wall["loop"][1:], wall["batch"][1:], strict=True)]
    third = len(resident) // 3
    middle, last = resident[third : 2 * third], resident[2 * third :]
    return {
        "throughput_over_bare_loop": round(statistics.median(pairs), 4),
        "throughput_over_bare_loop_quartiles": [round(one, 4) for one in statistics.quantiles(pairs, n=4)],
        "resident_last_third_over_middle_third": round(statistics.mean(last) / statistics.mean(middle), 4),
        "resident_mib_at_end": round(resident[-1] / 2**20, 1),
        "rows": chosen.rows,
        "processor_time_of_loop_over_batch": round(sum(processor["loop"][1:]) / sum(processor["batch"][1:]), 4),
        "seconds_a_row_bare": round(statistics.median(wall["loop"]), 4),
        "seconds_of_manifest_and_sheet_at_the_end": round(finishing, 2),
    }  # fmt: skip


def _request(fields: Mapping[str, Any], settings: Settings, engine: DiffusersEngine) -> GenerationRequest:
    return prepare(Txt2ImgBody(**fields), (), settings, engine.catalogue(), StyleBook()).generation


async def _loop(engine: DiffusersEngine, requests: list[GenerationRequest]) -> float:
    """Seconds for the engine alone."""

    def loop() -> None:
        for request in requests:
            engine.generate(request, CancelToken(), lambda progress: None)

    began = time.perf_counter()
    await asyncio.to_thread(loop)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
