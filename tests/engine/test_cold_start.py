"""What makes a cold start short, and that nothing is different for it: weights read ahead, hashes known later."""

import gc
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from service.catalogue import checkpoints, layouts
from service.catalogue.checkpoints import CheckpointCatalogue
from service.catalogue.layouts import files_to_read
from service.catalogue.weights import read_header
from service.core.errors import ModelLoadError
from service.core.events import Progress
from service.core.generation import GenerationRequest, GenerationResult
from service.engine import start
from service.engine.device import Device
from service.engine.engine import DiffusersEngine
from service.engine.weights import ahead
from service.engine.weights.tensors import read_tensors
from service.settings import DEMO_MODEL, Settings

CPU = Device(torch.device("cpu"), torch.float32, 0, channels_last=True)
UNET = layouts.weights_of(DEMO_MODEL / "unet")[0]


def ignore(sentence: str, *, part: str | None = None, seconds: float = 0.0) -> None:
    """News of a load."""


# --- into their place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_tensors_come_as_the_device_wants_them(
    tmp_path: Path,
    stored: torch.dtype,
    wanted: torch.dtype,
    *,
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.engine.weights.tensors._BUFFER", 1000)  # in many pieces
    made = {
        "conv": torch.randn(7, 5, 3, 3), "linear": torch.randn(11, 130), "bias": torch.randn(300),
        "number": torch.tensor(2.5), "empty": torch.empty(0, 4), "pointwise": torch.randn(4, 6, 1, 1),
    }  # fmt: skip
    made = {name: tensor.to(stored) for name, tensor in made.items()} | {"ids": torch.arange(77)[None]}
    save_file(made, tmp_path / "x.safetensors")
    device = Device(torch.device("cpu"), wanted, 0, channels_last=channels_last)
    found = dict(read_tensors(tmp_path / "x.safetensors", device))
    assert found.keys() == made.keys()
    for name, tensor in found.items():
        kind = torch.int64 if name == "ids" else wanted
        assert tensor.dtype is kind
        assert torch.equal(tensor, made[name].to(kind))
        assert tensor.is_contiguous(
            memory_format=device.memory_format if tensor.dim() == 4 else torch.contiguous_format
        )


# --- ahead ------------------------------------------------------------------------------------------------


@pytest.fixture
def always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_SMALL", 0)


@pytest.mark.usefixtures("always_ahead")
def test_what_was_read_ahead_is_what_the_file_holds() -> None:
    threads = torch.get_num_threads()
    reader = ahead.ReadAhead(DEMO_MODEL, CPU)
    plain = dict(read_tensors(UNET, CPU))
    found = dict(reader(UNET, CPU, lambda name: name.endswith("weight")))
    found |= dict(reader(UNET, CPU, lambda name: not name.endswith("weight")))
    assert found.keys() == plain.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())
    # Asked again, or for another precision: read again.
    assert dict(reader(UNET, CPU, lambda name: name == "conv_in.bias")).keys() == {"conv_in.bias"}
    half = Device(CPU.torch_device, torch.bfloat16, 0)
    assert {tensor.dtype for _, tensor in reader(UNET, half)} == {torch.bfloat16}
    reader.close()
    assert torch.get_num_threads() == threads
    assert not any(thread.is_alive() for thread in reader._readers)


@pytest.mark.usefixtures("always_ahead")
def test_a_file_that_cannot_be_read_is_complained_about_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"model.diffusion_model.x": torch.ones(4), "ema.x": torch.ones(4)}, path)
    whole = path.read_bytes()

    def breaks(*arguments: object) -> object:
        raise OSError("the disk is gone")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "read_tensors", breaks)
        reader = ahead.ReadAhead(path, CPU)
        for thread in reader._readers:
            thread.join(10)
    assert {name for name, _ in reader(path, CPU)} == {"model.diffusion_model.x", "ema.x"}
    path.write_bytes(whole[:-8])
    with pytest.raises(ModelLoadError, match="truncated"):
        dict(reader(path, CPU))
    reader.close()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_readers_share_the_bytes_of_a_checkpoint_and_leave_none_out(count: int) -> None:
    files = files_to_read(DEMO_MODEL)
    sizes = {
        (path, name): entry.end - entry.start
        for path in files
        for name, entry in read_header(path)[0].items()
    }
    shares = ahead._shares(files, lambda name: True, count)
    given = [[(path, name) for path, names in share.items() for name in names] for share in shares]
    assert sorted(name for share in given for name in share) == sorted(sizes)
    loads = [sum(map(sizes.__getitem__, share)) for share in given]
    assert max(loads) - min(loads) <= max(sizes.values())


def test_what_is_not_there_or_does_not_fit_is_not_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ahead.ReadAhead(Path("/nowhere"), CPU)._wanted
    assert not ahead.ReadAhead(DEMO_MODEL, CPU)._wanted, "small: read before a thread is worth it"
    monkeypatch.setattr(ahead, "_SMALL", 0)
    monkeypatch.setattr("service.engine.memory.free_main_memory", lambda: 1000)
    assert not ahead.ReadAhead(DEMO_MODEL, CPU)._wanted


# --- the engine --------------------------------------------------------------------------------------------


def picture(engine: DiffusersEngine) -> bytes:
    from service.core.cancel import CancelToken

    def sink(progress: Progress) -> None:
        pass

    request = GenerationRequest(prompt="pretty dog", seed=1, steps=2, width=64, height=64)
    made: GenerationResult = engine.generate(request, CancelToken(), sink)
    return made.images[0].tobytes()


@pytest.mark.usefixtures("always_ahead")
def test_an_engine_that_read_ahead_draws_the_same_picture() -> None:
    settings = Settings.read()
    engines = [start.start(settings), DiffusersEngine(settings)]
    assert gc.get_freeze_count() > 100_000, "collections pass over what was imported"
    for engine in engines:
        engine.load(ignore)
    first, second = map(picture, engines)
    assert first == second
    assert engines[0]._ahead is None


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, []),  # a CPU
        ({"warmup_steps": 0, "warmup_size": 128}, []),
        ({"warmup_steps": 3}, [(512, 3)]),
        ({"warmup_steps": 1, "warmup_size": 128}, [(128, 1)]),
        ({"warmup_size": 128}, []),
    ],
)
def test_warm_up_is_what_its_settings_say(
    given: dict[str, int], made: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = DiffusersEngine(Settings.read(device="cpu", **given))
    seen: list[tuple[int, int]] = []
    generate = engine.generate

    def watched(request: GenerationRequest, token: object, sink: object) -> GenerationResult:
        seen.append((request.width, request.steps))
        small = GenerationRequest(prompt="x", steps=1, width=64, height=64)
        return generate(small, token, sink)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "generate", watched)
    engine.load(ignore)
    assert seen == made


def test_warm_up_without_steps_finds_a_broken_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DiffusersEngine(Settings.read(device="cpu"))
    warned: list[str] = []
    monkeypatch.setattr("service.engine.engine.log.warning", lambda text, **more: warned.append(text))

    def nothing(*arguments: object, **named: object) -> tuple[torch.Tensor]:
        return (torch.full((1, 3, 64, 64), torch.nan),)

    monkeypatch.setattr("diffusers.AutoencoderTiny.decode", nothing)
    engine.load(ignore)
    assert any("one colour" in text for text in warned)


def test_warm_up_without_steps_finds_a_network_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = DiffusersEngine(Settings.read(device="cpu"))
    told: list[dict[str, object]] = []
    monkeypatch.setattr("service.engine.engine.log.warning", lambda text, **more: told.append(more))
    engine.load(ignore)
    assert not told
    model = engine._require().get(None)
    with torch.inference_mode():
        model.network.conv_in.weight.fill_(torch.nan)
    engine._warm_up(model)
    assert [one["part"] for one in told] == ["unet"]


# --- hashes --------------------------------------------------------------------------------------------------


def test_large_checkpoints_are_hashed_when_they_are_in_use_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(checkpoints, "_HASHES", {})
    monkeypatch.setattr(checkpoints, "SOON_HASHED", 0)
    gate = threading.Event()
    real = checkpoints._sha256_of

    def slow(*arguments: object) -> str:
        gate.wait(30)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "_sha256_of", slow)
    engine = DiffusersEngine(Settings.read())
    engine.load(ignore)  # does not wait for the hash
    plain = engine.catalogue().default
    assert plain.sha256 is None
    assert engine.catalogue().find(f"{plain.title} [0123456789]") == plain
    (thread,) = [each for each in threading.enumerate() if each.name == "hash"]
    gate.set()
    thread.join(30)
    known = engine.catalogue().default
    assert known.sha256 is not None
    assert known.title == f"{plain.title} [{known.short_hash}]"
    assert engine.get().info == known, "the next picture tells it"


def test_a_small_file_does_not_wait_for_the_hash_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    large, small = tmp_path / "large.safetensors", tmp_path / "small.safetensors"
    save_file({"x": torch.ones(3)}, large)
    save_file({"x": torch.ones(2)}, small)
    with checkpoints._HASHING[checkpoints.hash_store(large)]:
        assert len(checkpoints.sha256_of(small)) == 64


def test_the_catalogue_hashes_small_checkpoints_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(checkpoints, "_HASHES", {})
    catalogue = CheckpointCatalogue(DEMO_MODEL, Settings.read())
    assert catalogue.default.sha256 is None
    assert catalogue.hash_in_the_background(catalogue.default).sha256 == catalogue.default.sha256 is not None
