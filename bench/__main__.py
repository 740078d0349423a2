"""``python -m bench``: run all benches, write ``bench/results.json`` and the README's table.

With ``--only`` or ``--quick`` the figures are printed, and nothing is written.

python -m bench [--only overhead,readiness] [--quick]
"""

import argparse
import json
import subprocess  # each bench is a process of its own
import sys
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.table import write

RESULTS: Final = Path(__file__).parent / "results.json"


def benches() -> dict[str, tuple[str, list[str]]]:
    """Name → (module, further arguments with --quick)."""
    return {
        "overhead": ("bench.overhead", ["--rounds", "5", "--side", "256"]),
        "readiness": ("bench.readiness", ["--seconds", "10"]),
        "encoding": ("bench.encoding", ["--rounds", "3"]),
        "scrape": ("bench.scrape", ["--rounds", "3", "--steps", "8"]),
        "memory": ("bench.memory", ["--images", "30"]),
        "batch": ("bench.batch", ["--rows", "60", "--turn", "10"]),
        "cold_start": ("bench.cold_start", ["--rounds", "2", "--only", "shipped"]),
        "threads": ("bench.threads", ["--rounds", "1", "--pictures", "1"]),
        "front": ("bench.front", ["--rounds", "5", "--jobs", "100", "--seconds", "5"]),
        "simulator": ("loadtest.simulate.bench", []),
    }


def main() -> int:
    """Run what was asked for; 1 if a bench failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: to see that they run")
    chosen = parser.parse_args()
    only = {name for name in chosen.only.split(",") if name}
    unknown = only - benches().keys()
    if unknown:
        parser.error(f"there is no bench {', '.join(sorted(unknown))}; choose from {', '.join(benches())}")
    console = Console()
    results: dict[str, Any] = {}
    failed = False
    for name, (module, quick) in benches().items():
        if only and name not in only:
            continue
        began = time.monotonic()
        with console.status(f"{name} …"):
            done = subprocess.run(
                [sys.executable, "-m", module, *(quick if chosen.quick else [])],
                capture_output=True,
                text=True,
            )
        if done.returncode:
            failed = True
            console.print(f"[red]{name} failed[/red]\n{done.stderr[-2000:]}")
            continue
        results[name] = json.loads(done.stdout.strip().splitlines()[-1])
        console.print(f"{name}: {time.monotonic() - began:.0f} s")
    if not only and not chosen.quick:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        write(results)
    table = Table("bench", "figure", "value")
    for name, figures in results.items():
        for figure, value in figures.items():
            table.add_row(name, figure, str(value))
    console.print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
