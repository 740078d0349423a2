"""A row: the A1111 fields of one request, as the input has them, typed by the API's own bodies."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from service.api.sdapi.options import DEFAULTS
from service.api.sdapi.schemas import Img2ImgBody, Txt2ImgBody
from service.batch.errors import BatchError

Kind: TypeAlias = Literal["txt2img", "img2img"]

FIELDS: Final = frozenset(Txt2ImgBody.model_fields) | frozenset(Img2ImgBody.model_fields)
"""Every field of A1111's two bodies."""

PICTURES: Final = ("init_images", "mask", "latent_mask")
"""Fields that hold pictures: in a row they are paths."""

OVERRIDES: Final = "override_settings"
LABEL: Final = "id"
"""The one column that is not A1111's: a name of the row, for its files."""

# What only a server's answer is about, or what the batch sets itself.
_NOT_HERE: Final = {
    "send_images": "the batch always takes the pictures",
    "save_images": "the batch writes every picture itself",
    "do_not_save_samples": "the batch writes every picture itself",
    "do_not_save_grid": "the batch writes every picture itself",
    "force_task_id": "rows have their number",
    "include_init_images": "the manifest has the row itself",
    "override_settings_restore_afterwards": "no row may change what the next one means",
}
_LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class Row:
    """Row ``number`` (1-based) of the input; ``body`` has what the row sets and nothing else."""

    number: int
    body: Mapping[str, Any]
    label: str = ""

    @property
    def kind(self) -> Kind:
        """img2img where the row has pictures to start from."""
        return "img2img" if self.body.get("init_images") is not None else "txt2img"


def make_row(number: int, values: Mapping[str, Any], where: str) -> Row:
    """The row of ``values``; names with a dot reach into ``override_settings``. ``where`` is for the errors.

    Raises :class:`BatchError` for a column that does not exist, or a name that makes no file name.
    """
    body: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    label = ""
    for name, value in values.items():
        check_column(name, where)
        if value is None:
            continue
        if name == LABEL:
            label = str(value)
            if not _LABEL.fullmatch(label):
                raise BatchError(
                    f"{where}: id {label[:80]!r} makes no file name: use up to 80 letters, digits, '.', '_' and '-'."
                )
        elif name.startswith(OVERRIDES + "."):
            overrides[name.removeprefix(OVERRIDES + ".")] = value
        else:
            body[name] = value
    if overrides:
        own = body.get(OVERRIDES) or {}
        if not isinstance(own, Mapping):
            raise BatchError(f'{where}: override_settings must be an object, as in {{"eta_ddim": 0.5}}.')
        body[OVERRIDES] = {**own, **overrides}
    if isinstance(pictures := body.get("init_images"), str):
        body["init_images"] = [pictures]
    return Row(number, body, label)


def check_column(name: str, where: str) -> None:
    """Raise :class:`BatchError` unless ``name`` is a column that a row can have."""
    if name in _NOT_HERE:
        raise BatchError(
            f"{where}: column {name!r} means nothing here, since {_NOT_HERE[name]}: take it out."
        )
    if name == LABEL or name in FIELDS:
        return
    option = name.removeprefix(OVERRIDES + ".")
    if option != name:
        if option in DEFAULTS:
            return
        raise BatchError(f"{where}: there is no option {option[:60]!r}{_meant(option, DEFAULTS)}")
    if name in DEFAULTS:
        raise BatchError(f"{where}: {name!r} is an option, not a field: write {OVERRIDES}.{name}.")
    raise BatchError(f"{where}: unknown column {name[:60]!r}{_meant(name, FIELDS)}")


def _meant(name: str, known: Iterator[str] | Mapping[str, Any] | frozenset[str]) -> str:
    close = difflib.get_close_matches(name, [str(one) for one in known], n=1, cutoff=0.55)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f".{hint} Columns are the field names of A1111's txt2img and img2img, and id."


def canonical(value: Any) -> str:
    """``value`` as JSON that is the same for the same content, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
