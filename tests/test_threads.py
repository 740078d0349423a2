"""How many threads native code gets, from cgroups as nodes and containers show them, and how they wait."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import threads

IN_POD_V1 = "4:memory:/kubepods/pod1/c1\n2:cpu,cpuacct:/kubepods/pod1/c1\n0::/kubepods/pod1/c1\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        # Version 2, in a container: its own group is the root.
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        # On the machine itself: the group's own limit, its slice's, and the smaller of two.
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "400000 100000"}, 4.0),
        ("0::/a.slice/b.service\n", {"a.slice/cpu.max": "200000 100000"}, 2.0),
        (
            "0::/a.slice/b.service\n",
            {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "50000 100000"},
            0.5,
        ),
        (
            "0::/a.slice/b.service\n",
            {"a.slice/b.service/cpu.max": "100000 100000", "a.slice/cpu.max": "300000 100000"},
            1.0,
        ),
        # Version 1, where the container's folder is mounted as root though the path is the node's.
        (IN_POD_V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2.0),
        (IN_POD_V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, None),
        # … and with the node's own view, under the other name of the folder.
        (
            IN_POD_V1,
            {
                "cpu/kubepods/pod1/c1/cpu.cfs_quota_us": "50000\n",
                "cpu/kubepods/pod1/c1/cpu.cfs_period_us": "20000\n",
            },
            2.5,
        ),
        # Version 1 beside 2, as systemd mounts both.
        (
            "3:cpu:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000", "unified/cpu.max": "300000 100000"},
            3.0,
        ),
        # Nothing to be had of it.
        ("0::/../outside\n", {"cpu.max": "100000 100000"}, 1.0),
        ("0::/\n", {"cpu.max": "garbage\n"}, None),
        ("0::/\n", {"cpu.max": "1 0\n"}, None),
        ("0::/\n", {}, None),
        ("9:name=systemd:/\n", {"cpu.max": "100000 100000"}, None),
    ],
)  # fmt: skip
def test_quota(membership: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert threads.cpu_quota(tmp_path / "cgroup", tmp_path / "membership") == quota


def test_without_cgroups(tmp_path: Path) -> None:
    assert threads.cpu_quota(tmp_path, tmp_path / "no such file") is None


@pytest.mark.parametrize(
    ("quota", "cores", "expected"), [(None, 4, 4), (2.0, 64, 2), (1.5, 64, 2), (0.1, 8, 1), (16.0, 4, 4)]
)
def test_number(quota: float | None, cores: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert threads.available() == expected


@pytest.mark.parametrize(
    ("given", "threads_wanted", "policy"),
    [
        ({}, "3", "PASSIVE"),
        ({"SD_CPU_THREADS": "5"}, "5", "PASSIVE"),
        ({"SD_CPU_THREADS": "0"}, "3", "PASSIVE"),
        ({"SD_CPU_THREADS": "many"}, "3", "PASSIVE"),
        ({"OMP_NUM_THREADS": "7"}, "7", "PASSIVE"),
        ({"OMP_NUM_THREADS": "7", "SD_CPU_THREADS": "5"}, "5", "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "3", "ACTIVE"),
        ({"GOMP_SPINCOUNT": "1000"}, "3", None),
    ],
)
def test_operators_variables_win(
    given: dict[str, str], threads_wanted: str, policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "available", lambda: 3)
    environ = dict(given)
    threads.prepare(environ)
    assert environ.get("OMP_WAIT_POLICY") == policy
    assert environ["OMP_NUM_THREADS"] == threads_wanted
    assert given.items() - environ.items() <= {("OMP_NUM_THREADS", "7")}


def test_torch_has_what_was_decided() -> None:
    """Whoever comes to torch by way of the engine, a command or not."""
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "SD_"))
    }
    program = (
        "from service.engine import device; import os, torch; "
        "print(os.environ['OMP_WAIT_POLICY'], torch.get_num_threads())"
    )
    for given, expected in (({}, str(threads.available())), ({"SD_CPU_THREADS": "1"}, "1")):
        shown = subprocess.run(
            [sys.executable, "-c", program],
            env=environ | given,
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[1],
        )
        assert shown.stdout.split() == ["PASSIVE", expected]


def test_command_decides_before_it_imports_anything_that_counts() -> None:
    program = (
        "import sys, os, service.cli as cli; from service import __main__ as program\n"
        "cli.app = program.app = lambda **kwargs: print(os.environ['OMP_WAIT_POLICY'], "
        "*sorted({'numpy', 'torch'} & set(sys.modules)))\n"
        "program.main()"
    )
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "SD_"))
    }
    shown = subprocess.run(
        [sys.executable, "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert shown.stdout.split() == ["PASSIVE"]
