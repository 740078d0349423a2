"""A configuration beside a checkpoint: ``NAME.yaml`` in latent diffusion's own form, as A1111 reads it.

It says what the tensors alone do not, or not for certain: what the UNet predicts, its noise schedule, widths and heads
of UNet and VAE that are not those of the published models.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.core.errors import ModelLoadError


def read(checkpoint: Path) -> Mapping[str, Any] | None:
    """The ``model.params`` of the configuration beside ``checkpoint``; None where there is none.

    Raises :class:`ModelLoadError` for a file that is no such configuration.
    """
    path = checkpoint.with_suffix(".yaml")
    if not path.is_file():
        return None
    import yaml  # few checkpoints need it

    try:
        content = yaml.safe_load(path.read_text(errors="replace"))
    except yaml.YAMLError as error:
        raise ModelLoadError(
            f"{path.name} is not YAML ({str(error).splitlines()[0]}): mend or remove it."
        ) from None
    params = _part(_part(content, "model"), "params")
    if not params:
        raise ModelLoadError(
            f"{path.name} has no model.params: it is no configuration of a checkpoint, remove it."
        )
    return params


def apply(params: Mapping[str, Any], config: dict[str, Any], name: str) -> None:
    """Put what ``params`` says into ``config`` (see :func:`single_file.configuration`), in place.

    Raises :class:`ModelLoadError` (``name`` is the checkpoint's) for values that cannot be meant.
    """
    try:
        _schedule(params, config["scheduler"])
        _unet(_part(_part(params, "unet_config"), "params"), config["unet"])
        _vae(params, config["vae"])
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelLoadError(f"The configuration beside {name} cannot be used: {error}.") from None


def _part(content: Any, key: str) -> Mapping[str, Any]:
    found = content.get(key) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _schedule(params: Mapping[str, Any], scheduler: dict[str, Any]) -> None:
    kind = str(params.get("parameterization", "eps"))
    scheduler["prediction_type"] = "v_prediction" if kind.startswith("v") else "epsilon"
    for theirs, ours in (("linear_start", "beta_start"), ("linear_end", "beta_end")):
        if theirs in params:
            scheduler[ours] = float(params[theirs])
    if "timesteps" in params:
        scheduler["num_train_timesteps"] = int(params["timesteps"])


def _unet(params: Mapping[str, Any], unet: dict[str, Any]) -> None:
    if "in_channels" in params:
        unet["in_channels"] = int(params["in_channels"])
    if "num_res_blocks" in params:
        unet["layers_per_block"] = int(params["num_res_blocks"])
    if "context_dim" in params:
        unet["cross_attention_dim"] = int(params["context_dim"])
    if "use_linear_in_transformer" in params:
        unet["use_linear_projection"] = bool(params["use_linear_in_transformer"])
    if "model_channels" in params and "channel_mult" in params:
        widths = [int(params["model_channels"]) * int(factor) for factor in params["channel_mult"]]
        if len(widths) != len(unet["block_out_channels"]):
            raise ValueError(f"channel_mult has {len(widths)} levels, not {len(unet['block_out_channels'])}")
        unet["block_out_channels"] = widths
    # What diffusers calls attention_head_dim is the number of heads.
    if "num_head_channels" in params and int(params["num_head_channels"]) > 0:
        each = int(params["num_head_channels"])
        unet["attention_head_dim"] = [width // each for width in unet["block_out_channels"]]
    elif "num_heads" in params and int(params["num_heads"]) > 0:
        unet["attention_head_dim"] = int(params["num_heads"])


def _vae(params: Mapping[str, Any], vae: dict[str, Any]) -> None:
    if "scale_factor" in params:
        vae["scaling_factor"] = float(params["scale_factor"])
    inner = _part(_part(_part(params, "first_stage_config"), "params"), "ddconfig")
    if "z_channels" in inner:
        vae["latent_channels"] = int(inner["z_channels"])
    if "num_res_blocks" in inner:
        vae["layers_per_block"] = int(inner["num_res_blocks"])
    if "ch" in inner and "ch_mult" in inner:
        widths = [int(inner["ch"]) * int(factor) for factor in inner["ch_mult"]]
        if len(widths) != len(vae["block_out_channels"]):
            raise ValueError(f"ch_mult has {len(widths)} levels, not {len(vae['block_out_channels'])}")
        vae["block_out_channels"] = widths
