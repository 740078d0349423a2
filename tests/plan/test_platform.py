"""Whose memory it is: slices of shared GPUs and control groups."""

from pathlib import Path

import pytest

from service.main_memory import control_groups
from service.plan.platform import main_memory_limit, slice_of


def test_slices() -> None:
    assert slice_of({}) is None
    assert slice_of({"ALIYUN_COM_GPU_MEM_CONTAINER": "7", "ALIYUN_COM_GPU_MEM_DEV": "22"}) == (7.0, "cGPU")
    assert slice_of({"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=5G,1=8G"}) == (5.0, "MPS")
    assert slice_of({"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "1=8G,0=5632M"}) == (5.5, "MPS")
    assert slice_of({"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "nonsense"}) is None


def machine(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 1000 kB\n", "proc/self/cgroup": cgroup, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_container(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/\n", {"sys/fs/cgroup/memory.max": "500000\n"})
    assert main_memory_limit(root) == (500000, "control group")


def test_no_limit(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/\n", {"sys/fs/cgroup/memory.max": "max\n"})
    assert main_memory_limit(root) == (1024000, "machine")


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/system.slice/sd.service\n", "sys/fs/cgroup/system.slice/sd.service/memory.max"),
        ("0::/\n4:memory:/sd\n", "sys/fs/cgroup/memory/sd/memory.limit_in_bytes"),
        ("4:cpu,memory:/a/b/c\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes"),
    ],
)
def test_a_group_below_the_root_or_around_its_own(tmp_path: Path, cgroup: str, file: str) -> None:
    root = machine(tmp_path, cgroup, {file: "700000\n"})
    assert main_memory_limit(root) == (700000, "control group")
    assert all(root in folder.parents for folder, _ in control_groups(root))
