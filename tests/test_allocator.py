"""What is freed is kept for whoever asks next, in every thread, or goes back at once: by the pages that are cleared."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import allocator

CODE = """
import resource, threading
from service import allocator

def cleared():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (96 * 2**20)
    del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    print(cleared(), cleared(), flush=True)
    allocator.tighten()
    print(cleared(), cleared(), flush=True)
    allocator.keep()
    print(cleared(), cleared(), flush=True)
    allocator.give_back()
    print(cleared(), flush=True)

allocator.prepare()
allocator.keep()
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
PAGES = 96 * 2**20 // os.sysconf("SC_PAGE_SIZE")


def counts(**environ: str) -> list[int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=Path(__file__).parents[1],
        env=clean | environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(allocator._glibc() is None, reason="this is not glibc")
def test_freed_memory_is_kept_or_given_back() -> None:
    first, second, tight, tight_again, kept, kept_again, given_back = counts()
    assert first >= PAGES
    assert second < PAGES / 50
    assert tight >= PAGES
    assert tight_again >= PAGES
    assert kept >= PAGES
    assert kept_again < PAGES / 50
    assert given_back >= PAGES / 2


@pytest.mark.skipif(allocator._glibc() is None, reason="this is not glibc")
def test_an_operators_choice_stays() -> None:
    _, second, *_ = counts(MALLOC_ARENA_MAX="4")
    assert second >= PAGES
