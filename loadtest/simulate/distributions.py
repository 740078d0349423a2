"""Random durations of a scenario: service times, cold starts, think times, node provisioning. All in seconds.

In a scenario file a plain number is a constant; everything else is an object with a ``kind``.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Sampler = Callable[[], float]
_BATCH = 1024


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """``n`` samples, none below 0."""
        raise NotImplementedError

    def mean(self) -> float:
        """The expected value, estimated where no formula is at hand."""
        return float(self.draw(np.random.default_rng(0), 100_000).mean())

    def sampler(self, rng: np.random.Generator) -> Sampler:
        """A function that returns one sample a call (drawn in batches: one numpy call a sample is slow)."""
        stock: list[float] = []

        def sample() -> float:
            if not stock:
                stock.extend(self.draw(rng, _BATCH).tolist())
            return stock.pop()

        return sample


class Constant(_Model):
    """Always ``value``."""

    kind: Literal["constant"] = "constant"
    value: float = Field(ge=0)

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.full(n, self.value)


class Uniform(_Model):
    """Anything from ``low`` to ``high``, equally likely."""

    kind: Literal["uniform"]
    low: float = Field(ge=0)
    high: float = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Uniform":
        if self.high < self.low:
            raise ValueError(f"high ({self.high:g}) is below low ({self.low:g}): swap them")
        return self

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return rng.uniform(self.low, self.high, n)


class Normal(_Model):
    """Normal with ``mean`` and ``sd``, cut off below ``low``."""

    kind: Literal["normal"]
    mean_: float = Field(alias="mean", ge=0)
    sd: float = Field(ge=0)
    low: float = Field(default=0.0, ge=0)

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.maximum(rng.normal(self.mean_, self.sd, n), self.low)


class LogNormal(_Model):
    """``low`` plus a log-normal of ``median`` − ``low`` and shape ``sigma``: a sharp left edge, a tail to
    the right.
    """

    kind: Literal["lognormal"]
    median: float = Field(gt=0)
    sigma: float = Field(ge=0, le=3)
    low: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "LogNormal":
        if self.low >= self.median:
            raise ValueError(f"low ({self.low:g}) must be below median ({self.median:g})")
        return self

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.low + rng.lognormal(math.log(self.median - self.low), self.sigma, n)


class Exponential(_Model):
    """``low`` plus an exponential, ``mean`` over all."""

    kind: Literal["exponential"]
    mean_: float = Field(alias="mean", gt=0)
    low: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> "Exponential":
        if self.low >= self.mean_:
            raise ValueError(f"low ({self.low:g}) must be below mean ({self.mean_:g})")
        return self

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.low + rng.exponential(self.mean_ - self.low, n)


class Empirical(_Model):
    """One of ``samples``, measured ones for instance, equally likely."""

    kind: Literal["empirical"]
    samples: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return rng.choice(np.asarray(self.samples), n)


class Part(BaseModel):
    """One ingredient of a mixture: how often (relative to the others), and what."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: float = Field(gt=0)
    of: "Distribution"


class Mixture(_Model):
    """Several kinds of request: each sample comes from one of ``parts``, by weight."""

    kind: Literal["mixture"]
    parts: list[Part] = Field(min_length=1)

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        weights = np.array([p.weight for p in self.parts])
        which = rng.choice(len(self.parts), n, p=weights / weights.sum())
        drawn = np.stack([p.of.draw(rng, n) for p in self.parts])
        return np.asarray(drawn[which, np.arange(n)], dtype=np.float64)


def _number_is_constant(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"kind": "constant", "value": value}
    if isinstance(value, dict) and "kind" not in value:
        raise ValueError(
            "give a number of seconds, or an object with kind: constant, uniform, normal, lognormal, "
            "exponential, empirical or mixture"
        )
    return value


Distribution = Annotated[
    Annotated[
        Constant | Uniform | Normal | LogNormal | Exponential | Empirical | Mixture,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_number_is_constant),
]

Part.model_rebuild()
Mixture.model_rebuild()
