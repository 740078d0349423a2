"""``python -m service plan``: from what the command line says to a plan."""

from pathlib import Path

from service.catalogue.weights import SUFFIX, read_header
from service.core.errors import ModelLoadError
from service.plan import platform
from service.plan.architecture import read_architecture
from service.plan.measures import AUTO, NONE, Measures, parse
from service.plan.networks.upscaler import Upscaler
from service.plan.planner import Plan, choose_plan
from service.plan.platform import GIB, Platform
from service.plan.size import sides
from service.plan.work import Work
from service.settings import Settings

_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


def plan_for(
    settings: Settings,
    *,
    gib: float | None,
    size: str,
    batch: int,
    hires: float | None,
    upscaler: str | None,
    measures: str,
) -> tuple[Plan, Measures]:
    """The plan, and the measures that were allowed. Raises :class:`ModelLoadError`, and ValueError for bad options."""
    width, height = sides(size)
    allowed, on = (AUTO, NONE) if measures == "auto" else (parse("" if measures == "none" else measures),) * 2
    work = Work(
        width, height, batch,
        hires=None if hires is None else (int(width * hires) // 8 * 8, int(height * hires) // 8 * 8),
        hires_in_pixels=upscaler is not None,
        upscaler=None if upscaler is None else _upscaler(settings, upscaler),
    )  # fmt: skip
    where = _platform(settings, gib)
    kind = "float16" if where.is_cuda else "float32"
    itemsize = _ITEMSIZE[settings.dtype if settings.dtype != "auto" else kind]
    path = find(settings.model, settings.model_revision)
    architecture = read_architecture(path, settings.model if path.name != Path(settings.model).name else "")
    return choose_plan(architecture, work, where, itemsize, allowed, on), allowed


def find(model: str, revision: str | None) -> Path:
    """The checkpoint here: a folder, a file, or a Hugging Face id in the local cache; nothing is fetched."""
    path = Path(model).expanduser()
    if path.exists():
        return path
    if path.suffix != SUFFIX and model.count("/") == 1:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(model, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError):
            raise ModelLoadError(
                f"{model} is neither here nor in the local cache of Hugging Face: `python -m service fetch {model}` "
                "brings it."
            ) from None
    raise ModelLoadError(f"There is no file or folder {model}: check the path.")


def _platform(settings: Settings, gib: float | None) -> Platform:
    channels_last = settings.channels_last
    if settings.device == "cpu":
        if gib is not None:
            return platform.cpu(int(gib * GIB), "--gib", channels_last=channels_last)
        return platform.cpu(*platform.main_memory_limit(), channels_last=channels_last)
    if gib is not None:
        amount, source = gib, "--gib"
    elif settings.gpu_memory_gib is not None:
        amount, source = settings.gpu_memory_gib, "SD_GPU_MEMORY_GIB"
    else:
        amount, source = platform.slice_of() or (0.0, "no limit given")
    return platform.cuda(int(amount * GIB), source, channels_last=channels_last)


def _upscaler(settings: Settings, name: str) -> Upscaler:
    path = Path(name)
    if not path.is_file() and settings.models_dir is not None:
        path = settings.models_dir / "upscalers" / f"{name.removesuffix(SUFFIX)}{SUFFIX}"
    if not path.is_file():
        return Upscaler()
    return Upscaler.of_shapes({key: entry.shape for key, entry in read_header(path)[0].items()})
