"""How the cost of an entry of LayerMerge's tables is measured, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.errors import ConfigError
from shoal.training import FitSettings

__all__ = ["MergeLoss", "MergeLossSettings"]


_RIDGE, _STEPS = 1e-2, 20


@dataclass(frozen=True, kw_only=True)
class MergeLoss:
    """What an entry does to the quality of the network.

    Attributes:
        loss: What it adds to the mean loss, in nats for classifiers.
        accuracy_change: What it adds to the accuracy, a share; None where there are no classes.
    """

    loss: float
    accuracy_change: float | None = None


@dataclass(frozen=True, kw_only=True)
class MergeLossSettings:
    """How the cost of an entry is measured.

    Attributes:
        form: How the rewritten network is led back: `tuned` trains it briefly; `reconstruction` mixes the
            channels at the segment's end, in closed form, for a first answer where training takes hours.
        samples: The most samples that are led back on, and the most that are judged on.
        recalibrate: Whether batch norms in the segment and behind take new statistics before that.
        ridge: Of `reconstruction`: how strongly the mixing is held back, of the channels' mean variance.
        steps: Of `tuned`: steps of training.
        optimizer: `sgd` or `adamw`.
        lr: Highest learning rate.
        weight_decay: Of weights.
        warmup: Share of the steps in which the learning rate rises.
        clip: Largest norm of the gradient; None leaves it as it is.
        distil: Weight of the original's outputs in training, from 0 to 1; the task has the rest.
        from_start: Whether all of the network is trained, and not only the segment and what follows.
        fresh_single: Whether a layer that stays as it is counts as one that has to be learnt anew, as
            published: it begins with random weights.
        cache_gib: How much of what goes into a segment is kept in memory, in GiB; it changes no result.
        seed: Of what training draws.
    """

    form: Literal["reconstruction", "tuned"] = "tuned"
    samples: int = 1000
    recalibrate: bool = True
    ridge: float = _RIDGE
    steps: int = _STEPS
    optimizer: Literal["adamw", "sgd"] = "sgd"
    lr: float = 0.03
    weight_decay: float = 1e-4
    warmup: float = 0.1
    clip: float | None = 1.0
    distil: float = 0.0
    from_start: bool = False
    fresh_single: bool = False
    cache_gib: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            (
                self.form not in ("reconstruction", "tuned"),
                f"form={self.form!r}: reconstruction and tuned work",
            ),
            (self.samples < 1, f"samples={self.samples}: 1 or more works"),
            (not self.ridge > 0, f"ridge={self.ridge}: a number above 0 works"),
            (not 0 <= self.distil <= 1, f"distil={self.distil}: a weight from 0 to 1 works"),
            (not self.cache_gib >= 0, f"cache_gib={self.cache_gib}: 0 or more works"),
        ]
        trains = {"from_start": self.from_start, "fresh_single": self.fresh_single, "distil": self.distil}
        if self.form == "reconstruction":
            faults += [(bool(v), f"{name}={v}: it needs form='tuned'") for name, v in trains.items()]
            faults.append((self.steps != _STEPS, f"steps={self.steps}: it needs form='tuned'"))
        elif self.ridge != _RIDGE:
            faults.append((True, f"ridge={self.ridge}: it needs form='reconstruction'"))
        found = [fault for wrong, fault in faults if wrong]
        if found:
            raise ConfigError(f"asked to measure merges with {'; '.join(found)}.")
        self.fit_settings()

    @classmethod
    def published(cls) -> MergeLossSettings:
        """Return the settings for ImageNet networks: all of the network for one epoch of 50,000 images."""
        return cls(
            form="tuned",
            samples=50_000,
            recalibrate=False,
            steps=196,
            lr=0.1,
            weight_decay=1e-5,
            warmup=0.0,
            clip=None,
            from_start=True,
            fresh_single=True,
        )

    def fit_settings(self) -> FitSettings:
        """Return how networks are trained.

        Raises:
            ConfigError: If a value is impossible.
        """
        return FitSettings(
            max_steps=self.steps,
            optimizer=self.optimizer,
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
            seed=self.seed,
        )
