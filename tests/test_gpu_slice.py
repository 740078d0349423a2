"""What the service understands of the variables that GPU-sharing device plugins inject."""

import pytest

from service.core.errors import ModelLoadError
from service.gpu_slice import GpuSlice, read_gpu_slice


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, None),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": ""}, None),
        # ACK, counted in GiB: 3 of a 16 GiB card
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "3", "ALIYUN_COM_GPU_MEM_DEV": "15"}, GpuSlice(3.0, 15.0)),
        # newer plugin, which names the unit
        (
            {
                "ALIYUN_COM_GPU_MEM_CONTAINER": "8",
                "ALIYUN_COM_GPU_MEM_DEV": "22",
                "ALIYUN_COM_GPU_MEM_UNIT": "GiB",
                "ALIYUN_COM_GPU_MEM_IDX": "0",
            },
            GpuSlice(8.0, 22.0),
        ),
        # plugin started with --memory-unit=MiB: half of a 7606 MiB card
        (
            {"ALIYUN_COM_GPU_MEM_CONTAINER": "3803", "ALIYUN_COM_GPU_MEM_DEV": "7606"},
            GpuSlice(3803 / 1024, 7606 / 1024),
        ),
        # a slice under 1024 MiB of a card counted in MiB
        (
            {"ALIYUN_COM_GPU_MEM_CONTAINER": "512", "ALIYUN_COM_GPU_MEM_DEV": "24258"},
            GpuSlice(0.5, 24258 / 1024),
        ),
        (
            {
                "ALIYUN_COM_GPU_MEM_CONTAINER": "512",
                "ALIYUN_COM_GPU_MEM_DEV": "1000",
                "ALIYUN_COM_GPU_MEM_UNIT": "MiB",
            },
            GpuSlice(0.5, 1000 / 1024),
        ),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "8"}, GpuSlice(8.0, None)),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "5.5", "ALIYUN_COM_GPU_MEM_DEV": "22"}, GpuSlice(5.5, 22.0)),
    ],
)
def test_slice(environ: dict[str, str], expected: GpuSlice | None) -> None:
    assert read_gpu_slice(environ) == expected


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "8", "ALIYUN_COM_GPU_MEM_IDX": "-1"}, "no card with room"),
        (
            {"ALIYUN_COM_GPU_MEM_CONTAINER": "8", "NVIDIA_VISIBLE_DEVICES": "no-gpu-has-8GiB-to-run"},
            "no card with room",
        ),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "eight"}, "SD_GPU_MEMORY_GIB"),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "0"}, "SD_GPU_MEMORY_GIB"),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "nan"}, "SD_GPU_MEMORY_GIB"),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "8", "ALIYUN_COM_GPU_MEM_DEV": "lots"}, "SD_GPU_MEMORY_GIB"),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "8", "ALIYUN_COM_GPU_MEM_UNIT": "pages"}, "neither GiB nor MiB"),
        ({"ALIYUN_COM_GPU_MEM_CONTAINER": "23", "ALIYUN_COM_GPU_MEM_DEV": "22"}, "larger than"),
    ],
)
def test_nonsense_is_told(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        read_gpu_slice(environ)


def test_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIYUN_COM_GPU_MEM_CONTAINER", "8")
    monkeypatch.delenv("ALIYUN_COM_GPU_MEM_DEV", raising=False)
    monkeypatch.delenv("ALIYUN_COM_GPU_MEM_UNIT", raising=False)
    assert read_gpu_slice() == GpuSlice(8.0, None)
