"""``python -m service plan`` as people and programs call it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app

run = CliRunner().invoke


def test_json(folders: dict[str, Path]) -> None:
    result = run(app, ["plan", str(folders["sd1"]), "--gib", "5.5", "--hires", "1.5", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["fits"] is True
    assert report["limit_gib"] == 5.5
    assert report["work"]["hires"] == [768, 768]


def test_what_does_not_fit_is_told_by_the_exit_status(folders: dict[str, Path]) -> None:
    result = run(app, ["plan", str(folders["sdxl"]), "--gib", "3", "--measures", "none", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.output)["fits"] is False


def test_table(folders: dict[str, Path]) -> None:
    result = run(app, ["plan", str(folders["sdxl"]), "--gib", "7", "--size", "1024x1024"])
    assert result.exit_code == 0, result.output
    for word in ("unet", "text_encoder_2", "VAE decode", "model-offload", "Largest that fits"):
        assert word in result.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--size", "huge"], "the size is 'huge'"),
        (["--measures", "magic"], "there is no measure 'magic'"),
        (["--gib", "-1"], "--gib"),
    ],
)
def test_bad_options_are_told(folders: dict[str, Path], options: list[str], sentence: str) -> None:
    result = run(app, ["plan", str(folders["sd1"]), *options])
    assert result.exit_code == 2
    assert sentence in result.output


def test_what_is_not_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "There is no file or folder" in run(app, ["plan", "/nowhere/at/all.safetensors"]).output
    result = run(app, ["plan", "somebody/something"])
    assert result.exit_code == 2
    assert "local cache" in result.output


def test_the_slice_is_the_limit(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIYUN_COM_GPU_MEM_CONTAINER", "6")
    monkeypatch.setenv("ALIYUN_COM_GPU_MEM_DEV", "22")
    report = json.loads(run(app, ["plan", str(folders["sd1"]), "--json"]).output)
    assert (report["limit_gib"], report["limit_from"]) == (6.0, "cGPU")


def test_no_torch_is_imported(folders: dict[str, Path]) -> None:
    code = (
        "import sys; from service.cli import app\n"
        "try: app(['plan', sys.argv[1], '--gib', '8'])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folders["sd1"])], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
