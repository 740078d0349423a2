"""Random numbers of an image: each image has its own stream, so that a batch gives what single images give.

Draws happen on the CPU in float32 and move to the device afterwards: the same seed makes the same image on every
machine (A1111 calls this "RNG: CPU"). A request may ask for the numbers that an NVIDIA GPU draws ("NV", worked out on
the CPU), or for those of the device at hand ("GPU").
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor

from service.core.generation import NoiseSourceName
from service.engine.generation.philox import Philox

_TREE_DIGITS: Final = 6
"""Decimals to which a Brownian tree resolves time."""


class Stream(Protocol):
    """The random numbers of one seed."""

    def randn(self, shape: Sequence[int], /) -> Tensor:
        """The next draw, standard normal, float32."""
        ...


class _Torch:
    """PyTorch's own generator, on the CPU or a device."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self._generator = torch.Generator(device).manual_seed(seed % 2**64)

    def randn(self, shape: Sequence[int], /) -> Tensor:
        return torch.randn(tuple(shape), generator=self._generator, device=self._generator.device)


def stream(seed: int, source: NoiseSourceName = "CPU", device: torch.device | str = "cpu") -> Stream:
    """The stream of ``seed`` as ``source`` draws it."""
    match source:
        case "NV":
            return Philox(seed % 2**64)
        case "GPU":
            return _Torch(seed, device)
        case "CPU":
            return _Torch(seed)


def posterior(seed: int) -> Callable[[Tensor], Tensor]:
    """What an autoencoder's distribution is sampled with: draws one after the other, from the CPU's stream."""
    own = stream(seed)
    return lambda like: own.randn(like.shape).to(like)


def slerp(weight: float, low: Tensor, high: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985) between two noises of shape (channels, height, width).

    Angles are taken between columns (along the height), as A1111 does, so that variation seeds give its
    images. ``weight`` 0 gives ``low``, 1 gives ``high``. Columns that are (anti)parallel are interpolated
    linearly.
    """
    unit_low = low / low.norm(dim=1, keepdim=True)
    unit_high = high / high.norm(dim=1, keepdim=True)
    dot = (unit_low * unit_high).sum(1, keepdim=True).clamp(-1, 1)
    angle = dot.acos()
    sine = angle.sin()
    along = (((1 - weight) * angle).sin() * low + (weight * angle).sin() * high) / sine
    return torch.where(dot.abs() > 0.9995, (1 - weight) * low + weight * high, along)


def _paste_centre(canvas: Tensor, patch: Tensor) -> Tensor:
    """``canvas`` with the middle of ``patch`` in its own middle; both (channels, height, width)."""
    (height, width), (patch_height, patch_width) = canvas.shape[1:], patch.shape[1:]
    # Floor division of negative differences would shift by one: A1111's rounding is kept.
    dy, dx = (height - patch_height) // 2, (width - patch_width) // 2
    h = patch_height if dy >= 0 else patch_height + 2 * dy
    w = patch_width if dx >= 0 else patch_width + 2 * dx
    top, left, from_top, from_left = max(dy, 0), max(dx, 0), max(-dy, 0), max(-dx, 0)
    pasted = canvas.clone()
    pasted[:, top : top + h, left : left + w] = patch[:, from_top : from_top + h, from_left : from_left + w]
    return pasted


class NoiseSource:
    """The streams of the images of one batch; one object per pass (the hires pass starts anew).

    Call :meth:`initial` once, first: it takes the first draw of each stream, as :meth:`ancestral` takes the
    next ones. ``eta_noise_seed_delta`` (ENSD) other than 0 replaces the streams after the initial noise by
    those of ``seed + delta``. ``source`` "GPU" draws on ``device``.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        eta_noise_seed_delta: int = 0,
        source: NoiseSourceName = "CPU",
        device: torch.device | str = "cpu",
    ) -> None:
        self._seeds = tuple(seeds)
        self._delta = eta_noise_seed_delta
        self._source: NoiseSourceName = source
        self._device = device
        self._streams = [self._stream(seed) for seed in self._seeds]

    def _stream(self, seed: int) -> Stream:
        return stream(seed, self._source, self._device)

    def initial(
        self,
        shape: tuple[int, int, int],
        *,
        subseeds: Sequence[int] = (),
        subseed_strength: float = 0.0,
        seed_resize_from: tuple[int, int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Standard normal noise of shape (images, channels, height, width); ``shape`` is the latent's last
        three.

        ``subseed_strength`` 0..1 mixes in the noise of ``subseeds``, one per image. ``seed_resize_from``
        (width, height) of a latent keeps the noise that the seed has at that size in the middle of the
        picture.
        """
        noises = []
        for i, (seed, own) in enumerate(zip(self._seeds, self._streams, strict=True)):
            resized = seed_resize_from is not None and min(seed_resize_from) > 0
            own_shape = (shape[0], *reversed(seed_resize_from)) if resized and seed_resize_from else shape
            # At another size the stream itself serves the canvas, a second one of the same seed the middle.
            differs = own_shape != shape
            noise = (self._stream(seed) if differs else own).randn(own_shape)
            if subseed_strength != 0:
                subseed = subseeds[i] if i < len(subseeds) else 0
                noise = slerp(subseed_strength, noise, self._stream(subseed).randn(own_shape))
            if differs:
                noise = _paste_centre(own.randn(shape), noise)
            noises.append(noise)
        if self._delta:
            self._streams = [self._stream(seed + self._delta) for seed in self._seeds]
        return torch.stack(noises).to(device)

    def ancestral(self, x: Tensor) -> Tensor:
        """The next draw of every stream, shaped like ``x`` (images, …), on its device and of its dtype."""
        if len(x) != len(self._seeds):
            raise ValueError(f"a batch of {len(x)} latents needs as many seeds, not {len(self._seeds)}")
        draws = [own.randn(x.shape[1:]) for own in self._streams]
        return torch.stack(draws).to(device=x.device, dtype=x.dtype)

    def brownian(self, x: Tensor, sigma_min: float, sigma_max: float) -> Callable[[Tensor, Tensor], Tensor]:
        """Increments of a Brownian path per image, for the SDE samplers.

        The path depends on the seed and the two ends alone, not on the steps taken along it: more steps
        refine the same image. It is a Brownian tree (Li et al. 2020, arXiv:2001.01328, in torchsde). The
        function returned takes ``(sigma, sigma_next)`` and gives the increment, scaled to unit variance.
        """
        # Only here: importing it costs a cold start time, and few samplers need it.
        import torchsde

        # The tree rounds its ends like this, and warns of a sigma that lies a hair beyond them.
        low, high = round(sigma_min, _TREE_DIGITS), round(sigma_max, _TREE_DIGITS)
        trees = [
            torchsde.BrownianTree(low, torch.zeros(x.shape[1:]), high, entropy=seed % 2**64)
            for seed in self._seeds
        ]

        def increment(sigma: Tensor, sigma_next: Tensor) -> Tensor:
            first, second = float(sigma), float(sigma_next)
            start, end = (
                round(min(max(value, low), high), _TREE_DIGITS) for value in sorted((first, second))
            )
            if start == end:
                return torch.zeros_like(x)
            drawn = torch.stack([tree(start, end) for tree in trees])
            drawn /= math.copysign(math.sqrt(abs(second - first)), second - first)
            return drawn.to(device=x.device, dtype=x.dtype)

        return increment
