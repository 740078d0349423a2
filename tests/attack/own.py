"""A service of our own to attack: the real process with the shipped model, under limits of the kernel if wanted."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.attack.wire import Address, Client, Dropped, request
from tests.live import free_port

ROOT: Final = Path(__file__).parents[2]
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@contextmanager
def memory_group(limit: int) -> Iterator[Path | None]:
    """A control group that may use ``limit`` bytes; None where this user may not make one."""
    name = f"attack-{os.getpid()}-{time.monotonic_ns()}"
    root, file = (_V1, "memory.limit_in_bytes") if _V1.is_dir() else (_V2, "memory.max")
    group = root / name
    try:
        group.mkdir()
        (group / file).write_text(str(limit))
        with suppress(OSError):  # no swap to hide in, where the kernel counts it
            (group / ("memory.memsw.limit_in_bytes" if root == _V1 else "memory.swap.max")).write_text(
                str(limit) if root == _V1 else "0"
            )
    except OSError:
        with suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        for _ in range(100):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


@contextmanager
def small_disk(kilobytes: int) -> Iterator[Path | None]:
    """A folder on a disk of its own of so many KB; None where this user may not mount one."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True
        )
        if mounted.returncode != 0:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@contextmanager
def service(
    group: Path | None = None, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], Address]]:
    """The process and its address, once it is ready; killed at the end."""
    port = free_port()
    env = {
        **os.environ, "SD_LOG_LEVEL": "ERROR", "SD_WARMUP_STEPS": "1", "SD_WARMUP_SIZE": "64", "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", **environment,
    }  # fmt: skip
    command = [sys.executable, "-m", "service", "serve", "--port", str(port)]
    if group is not None:
        command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group), *command]
    running = subprocess.Popen(command, cwd=ROOT, env=env)
    address = Address("127.0.0.1", port)
    try:
        deadline = time.monotonic() + 120
        while not is_ready(address):
            assert running.poll() is None, f"the service ended with {running.returncode}"
            assert time.monotonic() < deadline, "the service does not get ready"
            time.sleep(0.1)
        yield running, address
    finally:
        if running.poll() is None:
            running.kill()
        running.wait(30)


def is_ready(address: Address) -> bool:
    """Whether the service takes work now."""
    client = Client(address, timeout=30)
    try:
        return client.send(request("GET", "/readyz")).status == 200
    except (Dropped, OSError):
        return False
    finally:
        client.close()
