"""Which files of a checkpoint are needed, which are refused, and whether weights are what they claim."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from safetensors import SafetensorError, safe_open

from service.catalogue.weights import INDEX, PICKLES
from service.catalogue.weights import refuse_pickle as refuse_pickled_file
from service.core.errors import ModelLoadError
from service.fetch.errors import FetchRefused

_PLAIN: Final = (".json", ".txt", ".model", ".md")
"""Endings of the files beside the weights: configuration, vocabulary, model card."""
_UNUSED: Final = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of a pipeline that this service does not load; the first alone is over a gigabyte."""
_LEGAL: Final = ("license", "notice")
_WEIGHTS: Final = re.compile(
    r"(?P<stem>[^.]+)(\.(?P<variant>[A-Za-z_]\w*))?(?P<shard>-\d{5}-of-\d{5})?\.safetensors(\.index(\.\w+)?\.json)?"
)
"""``diffusion_pytorch_model.fp16.safetensors`` is variant fp16; ``…-00001-of-00002`` is one of two shards."""


def refuse_pickle(name: str) -> None:
    """Raise :class:`FetchRefused` with the way out when ``name`` is a file of pickled weights."""
    try:
        refuse_pickled_file(Path(name))
    except ModelLoadError as error:
        raise FetchRefused(error.detail) from None


def select(
    names: Collection[str], index: Mapping[str, Any] | None, model: str, variant: str | None
) -> dict[str, str]:
    """The needed ones of a checkpoint's files: path there → path here.

    ``index`` is the content of ``model_index.json``, or None where there is none and exactly one file of
    weights is expected. A part's weights are taken from ``variant`` where it has them, else plain, else the
    one variant that there is, and get their plain name here: what loads them need not know of variants.
    Raises :class:`FetchRefused` when a part has pickled weights only.
    """
    if index is None:
        return _select_single(names, model)
    parts = [
        part
        for part, classes in index.items()
        if isinstance(classes, list)
        and len(classes) == 2
        and classes[0] is not None
        and not part.startswith("_")
        and part not in _UNUSED
    ]
    if not parts:
        raise FetchRefused(f"{model}: its {INDEX} names no parts, so this is no diffusers pipeline.")
    wanted = {name: name for name in names if "/" not in name and (name == INDEX or _is_about(name))}
    for part in parts:
        inside = [name for name in names if name.startswith(part + "/") and name.count("/") == 1]
        wanted |= {name: name for name in inside if name.endswith(_PLAIN) and ".index." not in name}
        wanted |= _select_weights(part, inside, model, variant)
    return wanted


def _select_weights(part: str, inside: Collection[str], model: str, variant: str | None) -> dict[str, str]:
    by_variant: dict[str, list[tuple[str, re.Match[str]]]] = {}
    for name in inside:
        matched = _WEIGHTS.fullmatch(PurePosixPath(name).name)
        if matched:
            kind = matched["variant"] or ""
            if not kind and (of_index := re.search(r"\.index\.(\w+)\.json$", name)):
                kind = of_index[1]
            by_variant.setdefault(kind, []).append((name, matched))
    if not by_variant:
        pickles = [name for name in inside if name.endswith(PICKLES)]
        if pickles:
            raise FetchRefused(
                f"{model} has its {part} as a pickle only ({PurePosixPath(pickles[0]).name}), and loading a "
                "pickle runs whatever code is inside it. Convert it once, on a machine without secrets: "
                'python -c "from diffusers import DiffusionPipeline as P; '
                f"P.from_pretrained('{model}').save_pretrained('converted')\", then fetch the folder "
                "`converted`."
            )
        return {}
    if variant in by_variant:
        kind = str(variant)
    elif "" in by_variant:
        kind = ""
    elif len(by_variant) == 1:
        (kind,) = by_variant
    else:
        raise FetchRefused(
            f"{model} has its {part} as variants only ({', '.join(sorted(by_variant))}): say which with "
            "--variant."
        )
    chosen = by_variant[kind]
    if not kind:
        return {name: name for name, _ in chosen}
    if any(matched["shard"] or name.endswith(".json") for name, matched in chosen):
        raise FetchRefused(
            f"{model} has its {part} of variant {kind} in several files, which is not supported: "
            + ("leave --variant away." if variant else "save it with save_pretrained and fetch that folder.")
        )
    return {name: f"{part}/{matched['stem']}.safetensors" for name, matched in chosen}


def _select_single(names: Collection[str], model: str) -> dict[str, str]:
    at_top = sorted(name for name in names if "/" not in name)
    weights = [name for name in at_top if name.endswith(".safetensors")]
    if len(weights) == 1:
        return {weights[0]: weights[0]}
    if weights:
        raise FetchRefused(
            f"{model} is no diffusers pipeline and has several checkpoints: name one of "
            + ", ".join(f"{model}/{name}" for name in weights)
        )
    for name in at_top:
        refuse_pickle(name)
    raise FetchRefused(
        f"{model} has neither a {INDEX} nor a .safetensors file: there is no checkpoint in it."
    )


def _is_about(name: str) -> bool:
    return name.lower().startswith(_LEGAL) or name == "README.md"


def check_weights(root: Path) -> None:
    """Read the header of every ``.safetensors`` file at or under ``root`` and compare it with the size.

    Raises :class:`FetchRefused` for the first file that is truncated, empty, or something else in disguise.
    """
    files = [root] if root.is_file() else sorted(root.rglob("*.safetensors"))
    if not files:
        raise FetchRefused(f"{root} has no .safetensors file: there are no weights in it.")
    for file in files:
        try:
            with safe_open(file, framework="numpy") as weights:
                empty = not list(weights.keys())
        except SafetensorError as error:
            raise FetchRefused(f"{file} {_what_it_is(file, error)}.") from error
        if empty:
            raise FetchRefused(f"{file} is a safetensors file without a single tensor.")
    for index in [] if root.is_file() else sorted(root.rglob("*.safetensors.index.json")):
        shards = set(json.loads(index.read_bytes()).get("weight_map", {}).values())
        missing = sorted(shard for shard in shards if not (index.parent / shard).is_file())
        if missing:
            raise FetchRefused(f"{index} names {', '.join(missing)}, which is not there: fetch it again.")


def _what_it_is(file: Path, error: SafetensorError) -> str:
    with file.open("rb") as stream:
        start = stream.read(12)
    if start.startswith((b"PK\x03\x04", b"\x80")):  # how torch.save's files begin, in either format
        return "is a pickle by another name, and loading a pickle runs whatever code is inside it: convert it"
    if start == b"version http":
        return "is a pointer of Git LFS, not the weights themselves: run `git lfs pull` where it came from"
    return f"is no complete safetensors file ({error}): remove it and fetch it again"
