"""LoRA networks: small changes to a checkpoint's weights that a prompt asks for (``<lora:name:0.8>``).

A network holds for each changed layer two thin matrices whose product, scaled, is added to the layer's weight
(Hu et al. 2021, arXiv:2106.09685); convolutions too (LoCon). Its relatives make the change otherwise: LoHa
as the elementwise product of two such products (Hyeon-Woo et al. 2021, arXiv:2108.06098), LoKr as a Kronecker product
(Yeh et al. 2023, arXiv:2309.14859), DoRA by rescaling the changed weight's columns (Liu et al. 2024,
arXiv:2402.09353).

Networks are added to the weights for one generation, and the very weights of before are put back after it. That
costs nothing per step, works under torch.compile, and leaves nothing behind, not even a rounding error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from service.engine.families.model import Model
from service.engine.weights import ldm

TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2")

_SUFFIX: Final = re.compile(
    r"\.(?:(?:processor\.)?(?P<old>to_(?:q|k|v|out)_lora)\.(?P<olddir>down|up)\.weight"
    r"|(?:lora\.|lora_linear_layer\.)(?P<mid>down|up)\.weight"
    r"|(?P<part>lora_down|lora_up|lora_mid|lora_A|lora_B)(?:\.default(?:_\d+)?)?\.weight"
    r"|(?P<plain>alpha|dora_scale|lora_magnitude_vector(?:\.weight)?|diff|diff_b|hada_w1_a|hada_w1_b|hada_w2_a"
    r"|hada_w2_b|hada_t1|hada_t2|lokr_w1|lokr_w1_a|lokr_w1_b|lokr_w2|lokr_w2_a|lokr_w2_b|lokr_t2))$"
)
_DOWN: Final = {"down": "lora_down", "up": "lora_up", "lora_A": "lora_down", "lora_B": "lora_up"}


@dataclass(frozen=True, slots=True)
class Adapter:
    """The tensors of one network by layer: ``layers[layer]["lora_down"]``, on the CPU as they are in the file.

    ``layer`` is the name in the file: kohya's (``lora_unet_…``, underscores) or a dotted one of diffusers or peft.
    """

    layers: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def of(cls, tensors: Iterable[tuple[str, Tensor]]) -> "Adapter":
        """The network in a file's ``tensors``. Tensors of unknown names become layers that no model has."""
        layers: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors:
            found = _SUFFIX.search(name)
            if found is None:
                layers.setdefault(name, {})
                continue
            layer = name[: found.start()]
            if found["old"]:
                # The attention processors of old diffusers: attn1.processor.to_q_lora.down.weight
                leaf = found["old"].removesuffix("_lora")
                if layer.endswith(".self_attn"):
                    leaf = f"{leaf.removeprefix('to_')}_proj"
                layer = f"{layer}.{'to_out.0' if leaf == 'to_out' else leaf}"
            kind = found["olddir"] or found["mid"] or found["part"] or found["plain"].removesuffix(".weight")
            kind = {"lora_magnitude_vector": "dora_scale"}.get(kind, _DOWN.get(kind, kind))
            layers.setdefault(layer, {})[kind] = tensor
        return cls(layers)

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(t.numel() * t.element_size() for tensors in self.layers.values() for t in tensors.values())


@dataclass(frozen=True, slots=True)
class Scaled:
    """A network and how strongly it acts on each part; ``dyn_dim`` cuts its rank."""

    adapter: Adapter
    text_encoder: float
    unet: float
    dyn_dim: int | None = None


class WeightPatch:
    """Networks on a model's weights, from :meth:`apply` to :meth:`restore`.

    ``unmatched`` are layers of the networks that the model does not have or whose shapes differ: few are
    normal, all of them mean that the network is for another family of checkpoints. The weights of before are
    kept on the model's device where that takes no more than a quarter of its ``room`` bytes, else in main memory.
    """

    def __init__(self, model: Model, networks: Iterable[Scaled], room: int = 0) -> None:
        self._model = model
        self._networks = list(networks)
        self._room = room
        self._aside: torch.device | None = None
        self._before: list[tuple[Tensor, Tensor]] = []
        self.unmatched: list[list[str]] = []

    def apply(self) -> None:
        """Change the weights; what was changed before a failure is put back."""
        table = layer_table(self._model)
        changes: dict[int, tuple[nn.Module, list[tuple[Mapping[str, Tensor], float, int | None]]]] = {}
        for network in self._networks:
            unmatched: list[str] = []
            for name, tensors in network.adapter.layers.items():
                part, module = table.get(_normal(name), ("", None))
                if module is None or not _fits(tensors, module):
                    unmatched.append(name)
                    continue
                strength = network.text_encoder if part in TEXT_ENCODERS else network.unet
                if strength:
                    changes.setdefault(id(module), (module, []))[1].append(
                        (tensors, strength, network.dyn_dim)
                    )
            self.unmatched.append(unmatched)
        touched = sum(_bytes(module.weight) for module, _ in changes.values())
        self._aside = None if 4 * touched <= self._room else torch.device("cpu")
        try:
            for module, each in changes.values():
                self._change(module, each)
        except BaseException:
            self.restore()
            raise

    def _change(self, module: nn.Module, each: list[tuple[Mapping[str, Tensor], float, int | None]]) -> None:
        weight: Tensor = module.weight  # type: ignore[assignment]
        # Sums in single precision: half would round away what several small changes add.
        changed = weight.float()
        for tensors, strength, dyn_dim in each:
            changed = changed + weight_change(changed, tensors, strength, dyn_dim)
            if "diff_b" in tensors and isinstance(module.bias, Tensor):
                self._write(module.bias, module.bias.float() + strength * tensors["diff_b"].to(module.bias))
        self._write(weight, changed)

    def _write(self, target: Tensor, value: Tensor) -> None:
        kept = target.detach().to(self._aside or target.device, copy=True)
        self._before.append((target, kept))
        target.copy_(value)

    def restore(self) -> None:
        """Put the weights of before back, bit for bit. May be called twice."""
        while self._before:
            target, kept = self._before.pop()
            target.copy_(kept)


def _bytes(tensor: Tensor | nn.Module) -> int:
    assert isinstance(tensor, Tensor)
    return tensor.numel() * tensor.element_size()


def layer_table(model: Model) -> dict[str, tuple[str, nn.Module]]:
    """Every layer of ``model`` with a weight that networks can change, by its names: (part, layer)."""
    found: dict[str, tuple[str, nn.Module]] = {}
    single = "text_encoder_2" not in model.modules or "text_encoder" not in model.modules
    for part in ("unet", *TEXT_ENCODERS):
        if part not in model.modules:
            continue
        module = model.modules[part]
        for name, layer in module.named_modules():
            if not isinstance(getattr(layer, "weight", None), Tensor) or isinstance(layer, nn.Embedding):
                continue
            for alias in _aliases(part, name, getattr(module, "config", None), single=single):
                found[_normal(alias)] = (part, layer)
    return found


def _aliases(part: str, name: str, config: Any, *, single: bool) -> list[str]:
    if part == "unet":
        return [f"lora_unet_{name}", f"unet.{name}", f"lora_unet_{ldm.unet_name(name, config)}"]
    inner = (
        f"text_model.{name.removeprefix('text_model.')}" if not name.startswith("text_projection") else name
    )
    kohya = "lora_te2_" if part == "text_encoder_2" else "lora_te1_"
    names = [f"{kohya}{inner}", f"{part}.{inner}", f"{part}.{inner.removeprefix('text_model.')}"]
    if part == "text_encoder" or single:
        names.append(f"lora_te_{inner}")
    return names


def _normal(name: str) -> str:
    """One spelling for kohya's underscores and the dots of others."""
    if name.startswith("base_model.model."):
        inner = name.removeprefix("base_model.model.")
        name = inner if inner.startswith(("unet.", "text_encoder")) else f"unet.{inner}"
    return name.replace(".", "_")


def _fits(tensors: Mapping[str, Tensor], module: nn.Module) -> bool:
    weight: Tensor = module.weight  # type: ignore[assignment]
    rows, columns = weight.shape[0], weight[0].numel()
    if "lora_down" in tensors and "lora_up" in tensors:
        down, up = tensors["lora_down"], tensors["lora_up"]
        middle = tensors.get("lora_mid")
        width = down.shape[1] * middle[0, 0].numel() if middle is not None else down[0].numel()
        return up.shape[0] == rows and width == columns and up[0].numel() == down.shape[0]
    if "hada_w1_a" in tensors or "lokr_w1" in tensors or "lokr_w1_a" in tensors or "diff" in tensors:
        try:
            return _product(tensors, weight.shape, None).numel() == weight.numel()
        except (RuntimeError, KeyError, ValueError):
            return False
    return False


def weight_change(
    weight: Tensor, tensors: Mapping[str, Tensor], strength: float, dyn_dim: int | None
) -> Tensor:
    """What is added to ``weight`` (float32) by one layer of a network at ``strength``, same shape and device."""
    on_device = {name: tensor.to(weight.device, torch.float32) for name, tensor in tensors.items()}
    change = _product(on_device, weight.shape, dyn_dim).reshape(weight.shape)
    if "alpha" in on_device and (rank := _rank(on_device)):
        change = change * (float(on_device["alpha"]) / rank)
    if "dora_scale" not in on_device:
        return change * strength
    changed = weight + change
    scale = on_device["dora_scale"].flatten()
    # One length for each output (peft, new kohya) or for each input (LyCORIS' first version).
    by_output = scale.numel() == weight.shape[0] and on_device["dora_scale"].shape[0] == weight.shape[0]
    if by_output or scale.numel() != weight.shape[1]:
        lengths = changed.flatten(1).norm(dim=1)
        shape = (-1, *[1] * (weight.ndim - 1))
    else:
        lengths = changed.transpose(0, 1).flatten(1).norm(dim=1)
        shape = (1, -1, *[1] * (weight.ndim - 2))
    factor = (scale / lengths.clamp_min(torch.finfo(torch.float32).tiny)).reshape(shape)
    return (changed * factor - weight) * strength


def _rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank by which alpha is divided; 0 where the change is not of low rank."""
    for name, side in (("lora_down", 0), ("hada_w1_b", 0), ("lokr_w1_b", 0), ("lokr_w2_b", 0)):
        if name in tensors:
            return tensors[name].shape[side]
    return 0


def _product(tensors: Mapping[str, Tensor], shape: torch.Size, dyn_dim: int | None) -> Tensor:
    """The change before it is scaled; its elements are in the order of a weight of ``shape``."""
    if "lora_down" in tensors:
        down, up, middle = tensors["lora_down"], tensors["lora_up"], tensors.get("lora_mid")
        if middle is not None:
            return torch.einsum("or,rsxy,si->oixy", up.flatten(1), middle, down.flatten(1))
        if dyn_dim:
            down, up = down[:dyn_dim], up[:, :dyn_dim]
        return up.flatten(1) @ down.flatten(1)
    if "hada_w1_a" in tensors:
        first, second = (_hadamard_half(tensors, number) for number in (1, 2))
        return first * second
    if "lokr_w1" in tensors or "lokr_w1_a" in tensors:
        left = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
        if "lokr_w2" in tensors:
            right = tensors["lokr_w2"]
        elif "lokr_t2" in tensors:
            right = torch.einsum(
                "rsxy,ro,si->oixy", tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"]
            )
        else:
            right = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"].flatten(1)
            if len(shape) == 4:
                right = right.reshape(right.shape[0], -1, shape[2], shape[3])
        if right.ndim == 4:
            left = left[:, :, None, None]
        return torch.kron(left, right.contiguous())
    return tensors["diff"]


def _hadamard_half(tensors: Mapping[str, Tensor], number: int) -> Tensor:
    a, b = tensors[f"hada_w{number}_a"], tensors[f"hada_w{number}_b"]
    if (core := tensors.get(f"hada_t{number}")) is not None:
        return torch.einsum("rsxy,ro,si->oixy", core, a, b)
    return a @ b
