"""Conditioning of one pass: what the UNet is told at each step, for each image."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from service.core.generation import Padding


@dataclass(frozen=True)
class StepConditioning:
    """The conditioning of one step: N images, R ≥ N rows, one for each part of an image's prompt.

    ``cond``: (R, L, D); ``cond_pooled``: (R, P) or None; ``uncond``: (N, L, D); ``uncond_pooled``: (N, P)
    or None. Row r belongs to image ``images[r]`` (0-based, ascending) with weight ``weights[r]``. The L of ``uncond``
    may be another one; ``padded`` says how they were made equal, if they were.
    """

    cond: torch.Tensor
    uncond: torch.Tensor
    cond_pooled: torch.Tensor | None
    uncond_pooled: torch.Tensor | None
    images: tuple[int, ...]
    weights: tuple[float, ...]
    padded: Padding = "none"

    @property
    def is_even(self) -> bool:
        """True if prompts and negative prompts are of equal length: one call of the UNet takes both."""
        return self.cond.shape[1] == self.uncond.shape[1]

    @property
    def is_composed(self) -> bool:
        """False where each image has exactly one row of weight 1, as for all prompts without AND."""
        return len(self.images) != self.uncond.shape[0] or any(weight != 1 for weight in self.weights)

    def rows(self, batch: torch.Tensor) -> torch.Tensor:
        """``batch`` (N, …), one entry for each image, as (R, …), one for each row of ``cond``."""
        if len(self.images) == batch.shape[0]:
            return batch
        return batch[list(self.images)]

    @cached_property
    def both(self) -> torch.Tensor:
        """``cond`` above ``uncond``: (R + N, L, D), for one call of the UNet with guidance."""
        return torch.cat([self.cond, self.uncond])

    @cached_property
    def both_pooled(self) -> torch.Tensor | None:
        """``cond_pooled`` above ``uncond_pooled``: (R + N, P), or None."""
        if self.cond_pooled is None or self.uncond_pooled is None:
            return None
        return torch.cat([self.cond_pooled, self.uncond_pooled])

    def firsts(self, cond: torch.Tensor) -> torch.Tensor:
        """(N, …): for each image the first of its rows in ``cond`` (R, …)."""
        return cond[[self.images.index(image) for image in range(self.uncond.shape[0])]]

    def guide(self, cond: torch.Tensor, uncond: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """Classifier-free guidance: ``uncond`` + Σ weight · scale · (cond − uncond) over an image's rows.

        ``cond`` (R, …) and ``uncond`` (N, …) are what the UNet made of the rows; (N, …) comes back.
        (Liu et al. 2022, "Compositional Visual Generation with Composable Diffusion Models", eq. 11.)
        """
        if not self.is_composed:
            return uncond + guidance_scale * (cond - uncond)
        guided = uncond.clone()
        for row, (image, weight) in enumerate(zip(self.images, self.weights, strict=True)):
            guided[image] += (cond[row] - uncond[image]) * (weight * guidance_scale)
        return guided


@dataclass(frozen=True, slots=True)
class Timeline:
    """One text's encodings over a pass: entry i is valid up to and with step ``until[i]``.

    ``states``: (L, D) for each entry, L the same for all; ``pooled``: (P,) each, or None.
    """

    until: tuple[int, ...]
    states: tuple[torch.Tensor, ...]
    pooled: tuple[torch.Tensor, ...] | None

    def index(self, step: int) -> int:
        """Which entry is valid at ``step`` (0-based); the last one for all steps beyond the end."""
        for index, until in enumerate(self.until):
            if step <= until:
                return index
        return len(self.until) - 1


@dataclass(slots=True)
class Conditioning:
    """The conditioning of N images over one pass of the sampler. See :meth:`step`."""

    cond: Sequence[Sequence[tuple[Timeline, float]]]
    """For each image the parts of its prompt with their weights."""
    uncond: Sequence[Timeline]
    """For each image its negative prompt."""
    embeddings: tuple[str, ...] = ()
    """The textual inversions that the prompts use, then those of the negative prompts, for the infotext."""
    padding: Padding = "none"
    empty: torch.Tensor | None = None
    """The states (77, D) of an empty text, for padding with them."""
    _steps: dict[tuple[int, ...], StepConditioning] = field(default_factory=dict)

    @property
    def image_count(self) -> int:
        """N."""
        return len(self.uncond)

    @property
    def is_scheduled(self) -> bool:
        """Whether anything changes from step to step."""
        return any(len(timeline.until) > 1 for timeline in self._timelines())

    def step(self, step: int) -> StepConditioning:
        """What holds at ``step``: the number of calls of the model that the pass has made before (0-based).

        As in A1111, a text scheduled "up to step n" is valid while ``step`` ≤ n, so that ``[a:b:3]`` reads
        "a" in the calls 0, 1, 2 and 3. Where nothing has changed, the same object comes back.
        """
        key = tuple(timeline.index(step) for timeline in self._timelines())
        if (found := self._steps.get(key)) is None:
            self._steps.clear()  # alternation would keep a tensor for each step; neighbours are what repeats
            found = self._steps[key] = self._stacked(step)
        return found

    def _timelines(self) -> list[Timeline]:
        return [part for parts in self.cond for part, _ in parts] + list(self.uncond)

    def _stacked(self, step: int) -> StepConditioning:
        rows = [(image, *part) for image, parts in enumerate(self.cond) for part in parts]
        cond, cond_pooled = _stack([timeline for _, timeline, _ in rows], step)
        uncond, uncond_pooled = _stack(self.uncond, step)
        padded: Padding = "none" if cond.shape[1] == uncond.shape[1] else self.padding
        if padded == "empty":
            assert self.empty is not None
            cond, uncond = (_with_empty(each, longest, self.empty) for each, longest in _pair(cond, uncond))
        elif padded == "last":
            uncond = _repeated(uncond, cond.shape[1])[:, : cond.shape[1]]
        return StepConditioning(
            cond=cond,
            uncond=uncond,
            cond_pooled=cond_pooled,
            uncond_pooled=uncond_pooled,
            images=tuple(image for image, _, _ in rows),
            weights=tuple(weight for _, _, weight in rows),
            padded=padded,
        )


def _stack(timelines: Sequence[Timeline], step: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The rows of one step, (rows, L, D) and (rows, P): as in A1111 shorter ones repeat their last vector."""
    states: list[torch.Tensor] = []
    pooled: list[torch.Tensor] = []
    for timeline in timelines:
        index = timeline.index(step)
        states.append(timeline.states[index])
        if timeline.pooled is not None:
            pooled.append(timeline.pooled[index])
    longest = max(each.shape[0] for each in states)
    stacked = torch.stack([_repeated(each[None], longest)[0] for each in states])
    return stacked, torch.stack(pooled) if pooled else None


def _repeated(states: torch.Tensor, length: int) -> torch.Tensor:
    """``states`` (rows, L, D) with their last vectors repeated up to ``length``."""
    more = length - states.shape[1]
    return states if more <= 0 else torch.cat([states, states[:, -1:].expand(-1, more, -1)], dim=1)


def _pair(cond: torch.Tensor, uncond: torch.Tensor) -> list[tuple[torch.Tensor, int]]:
    longest = max(cond.shape[1], uncond.shape[1])
    return [(cond, longest), (uncond, longest)]


def _with_empty(states: torch.Tensor, length: int, empty: torch.Tensor) -> torch.Tensor:
    """``states`` (rows, L, D) with as many empty texts after them as fit into ``length``."""
    count = (length - states.shape[1]) // empty.shape[0]
    return torch.cat([states, empty.repeat(count, 1).expand(len(states), -1, -1)], dim=1)
