"""A1111's options: all names with their defaults, and the layers in which a request sees them.

Process-wide defaults < session < ``override_settings`` of one request. Options that this service has no use for
are kept and given back, because clients read the whole object, change one key and write it all back.
"""

import json
import math
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final, get_args

from service.api import values
from service.core.errors import BadRequest
from service.core.generation import NoiseSourceName, UniPCSpacing, UniPCVariant

DEFAULTS: Final[Mapping[str, Any]] = json.loads(
    resources.files(__package__).joinpath("options.json").read_text()
)
"""The option names of A1111 1.10 and their values on a new installation."""

PROTECTED: Final = frozenset(
    {"samples_filename_pattern", "directories_filename_pattern", "temp_dir", "clean_temp_dir_at_start",
     "api_enable_requests", "api_forbid_local_requests", "api_useragent"}
    | {name for name in DEFAULTS if name.startswith("outdir_")}
)  # fmt: skip
"""Options that no client may set; A1111 ignores the attempt, and so does this service."""

_NUMBERS: Final = {
    "CLIP_stop_at_last_layers": (1, 12),
    "jpeg_quality": (1, 100),
    "eta_noise_seed_delta": (0, 2**32),
    "comma_padding_backtrack": (0, 74),
    "show_progress_every_n_steps": (-1, 1000),
    "eta_ancestral": (0, 10),
    "eta_ddim": (0, 10),
    "initial_noise_multiplier": (0, 1.5),
    "inpainting_mask_weight": (0, 1),
    "s_churn": (0, 1000),
    "s_tmin": (0, 1000),
    "s_tmax": (0, float("inf")),
    "s_noise": (0, 1000),
    "s_min_uncond": (0, 100),
    "img2img_extra_noise": (0, 1),
    "skip_early_cond": (0, 1),
    "token_merging_ratio": (0, 0.9),
    "token_merging_ratio_img2img": (0, 0.9),
    "token_merging_ratio_hr": (0, 0.9),
    "rho": (0, 100),
    "sigma_min": (0, 10),
    "sigma_max": (0, 1000),
    "beta_dist_alpha": (0.01, 10),
    "beta_dist_beta": (0.01, 10),
    "uni_pc_order": (1, 50),
}
"""Numbers that reach the engine, with their ranges."""

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "samples_format": ("png", "jpg", "jpeg", "webp"),
    "grid_format": ("png", "jpg", "jpeg", "webp"),
    "live_previews_image_format": ("png", "jpeg", "webp"),
    "emphasis": ("Original", "No norm", "Ignore", "None"),
    "hires_fix_refiner_pass": ("first pass", "second pass", "both passes"),
    "randn_source": get_args(NoiseSourceName),
    "sd_noise_schedule": ("Default", "Zero Terminal SNR"),
    "uni_pc_variant": get_args(UniPCVariant),
    "uni_pc_skip_type": get_args(UniPCSpacing),
}
"""Texts that one of a few must be, in any case."""

_TEXTS: Final = ("sd_model_checkpoint", "sd_vae", "upscaler_for_img2img", "img2img_background_color")
_YES: Final = {
    "true": True,
    "on": True,
    "yes": True,
    "1": True,
    "false": False,
    "off": False,
    "no": False,
    "0": False,
}

LARGEST: Final = 65_536
"""Characters that what a client sets at once may have as JSON: it is kept."""


class Options(Mapping[str, Any]):
    """A read-only view of all options: ``layers`` over the defaults, the last one on top."""

    def __init__(self, *layers: Mapping[str, Any]) -> None:
        self._values = dict(DEFAULTS)
        for layer in layers:
            self._values.update({name: value for name, value in layer.items() if value is not None})

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def number(self, name: str) -> float:
        """A number among the options. Raises :class:`BadRequest` for what is none, or outside its range."""
        value = self[name]
        low, high = _NUMBERS.get(name, (values.SMALLEST_INT, values.LARGEST_INT))
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise BadRequest(f"Option {name} is {str(value)[:40]!r}, but must be a number.") from None
        if not low <= number <= high or (math.isinf(number) and name != "s_tmax"):
            raise BadRequest(f"Option {name} is {str(value)[:40]}, but must be from {low:g} to {high:g}.")
        return number

    def integer(self, name: str) -> int:
        """A whole number among the options; clients send 1.0 for 1."""
        return int(self.number(name))

    def text(self, name: str) -> str:
        """A string among the options; "" for null."""
        value = self[name]
        return "" if value is None else str(value)

    def flag(self, name: str) -> bool:
        """A boolean among the options; clients send "true" and 1 as well."""
        value = self[name]
        known = value if isinstance(value, bool) else _YES.get(str(value).removesuffix(".0").strip().lower())
        if known is None:
            raise BadRequest(f"Option {name} is {str(value)[:40]!r}, but must be true or false.")
        return known

    def choice(self, name: str) -> str:
        """A text that must be one of a few, as those are spelt."""
        value = self.text(name)
        for choice in _CHOICES[name]:
            if choice.lower() == value.strip().lower():
                return choice
        raise BadRequest(f"Option {name} is {value[:40]!r}, but must be one of: {', '.join(_CHOICES[name])}.")


def checked(changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` without nulls and without the protected and the unknown options.

    Raises :class:`BadRequest` for values that the engine or the encoder could not use, and for too many of them.
    Options without a use here are kept as they are.
    """
    kept = {
        name: value
        for name, value in changes.items()
        if name in DEFAULTS and name not in PROTECTED and value is not None
    }
    view = Options(kept)
    for name in kept:
        if name in _NUMBERS:
            view.number(name)
        elif name in _CHOICES:
            kept[name] = view.choice(name)
        elif name in _TEXTS and not isinstance(kept[name], str):
            raise BadRequest(f"Option {name} is {str(kept[name])[:40]!r}, but must be a text.")
        elif isinstance(DEFAULTS[name], bool):
            kept[name] = view.flag(name)
    if len(json.dumps(kept)) > LARGEST:
        raise BadRequest(f"These options have more than {LARGEST} characters: set fewer, or shorter ones.")
    return kept
