"""A models folder full of files that lie: the service starts, refreshes, lists and makes its image all the same."""

import shutil
from pathlib import Path

import pytest

from service.catalogue import files
from service.catalogue.weights import read_header
from service.core.cancel import CancelToken
from service.core.errors import ModelLoadError
from service.core.generation import GenerationRequest
from service.engine.engine import DiffusersEngine
from service.settings import Settings
from tests.attack import evil_files

SMALL = GenerationRequest(prompt="pretty dog <lora:nested:1>", seed=5, steps=1, width=64, height=64)


@pytest.mark.parametrize(
    "name", [name for name in evil_files.HEADERS if name not in ("empty", "unknown_dtype")]
)
def test_a_header_that_lies_is_told_from_one_that_does_not(name: str, tmp_path: Path) -> None:
    evil_files.write(tmp_path)
    path = tmp_path / "loras" / f"{name}.safetensors"
    if name == "metadata_list":  # harmless: nothing of it is taken
        assert read_header(path) == ({}, {})
    else:
        with pytest.raises(ModelLoadError, match=path.name):
            read_header(path)


def test_a_folder_of_evil_files_costs_nobody_anything(tmp_path: Path) -> None:
    evil_files.write(tmp_path)
    engine = DiffusersEngine(Settings.read(models_dir=tmp_path, warmup_steps=1, warmup_size=64))
    engine.load(lambda sentence, *, part=None, seconds=0.0: None)
    for _ in range(2):
        # The default one, and a folder whose index is opened when it is asked for.
        assert [info.name for info in engine.catalogue().checkpoints] == ["demo_model", "odd_model_index"]
        assert not engine.catalogue().loras
        assert not engine.catalogue().vaes
        assert not engine.catalogue().embeddings
        assert len({upscaler.filename for upscaler in engine.catalogue().upscalers}) == 1
        assert files.files_left_out() > 100
        engine.refresh()
    assert engine.generate(SMALL, CancelToken(), lambda progress: None).images
    odd = next(info for info in engine.catalogue().checkpoints if "odd" in info.title)
    with pytest.raises(ModelLoadError):
        engine.load_checkpoint(odd.title)
    shutil.rmtree(tmp_path / "loras")
    engine.refresh()
