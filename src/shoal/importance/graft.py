"""Graft scores: how large the gradients of a random network are with some trained units in it.

The score of the paper's released code, kept for fidelity. It does not track what a unit is worth
(rank correlation with the true loss about -0.3 on a toy); the default of SGLP does not use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor, nn

from shoal.architectures.initialisation import randomise_, seeded
from shoal.calling import Batch, call, check_batches, device_of, split_batch, to_device
from shoal.errors import ConfigError, DataError
from shoal.measurement import Loss, is_causal, sample_losses
from shoal.progress import track
from shoal.units import Chain

__all__ = ["GraftHost", "GraftSettings", "graft_scores"]


@dataclass(frozen=True, kw_only=True)
class GraftSettings:
    """How graft scores are taken.

    Attributes:
        batches: Minibatches a candidate sees; every candidate sees the same.
        legacy_leak: Leave the units of earlier candidates in the host, as the released code does.
        seed: Of the host's random weights and of what training mode draws.
    """

    batches: int = 2
    legacy_leak: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batches < 1:
            raise ConfigError(f"asked for graft scores on batches={self.batches}: 1 or more works.")


class GraftHost:
    """A copy of a network with random weights into which trained units are grafted.

    Args:
        model: The trained network; it stays as it is.
        chain: Its units.
        settings: How scores are taken.
    """

    def __init__(self, model: nn.Module, chain: Chain, settings: GraftSettings) -> None:
        self.chain, self.settings = chain, settings
        self.trained = {name: value.detach() for name, value in model.state_dict().items()}
        self.host = deepcopy(model)
        with seeded(model, settings.seed):
            randomise_(self.host)
        self.host.train()
        self.random = {name: value.detach().clone() for name, value in self.host.state_dict().items()}
        for parameter in self.host.parameters():
            parameter.requires_grad_(parameter.is_floating_point())

    def graft_(self, units: Iterable[int]) -> None:
        """Put the trained weights of these units into the host, the others of which are random."""
        if not self.settings.legacy_leak:
            self.reset_()
        prefixes = tuple(f"{path}." for unit in self.chain.select(units) for path in unit.modules)
        state = self.host.state_dict()
        for name, value in self.trained.items():
            if name.startswith(prefixes):
                state[name].copy_(value)

    def reset_(self) -> None:
        """Give the host its random weights and statistics back, bit for bit."""
        for name, value in self.host.state_dict().items():
            value.copy_(self.random[name])

    def gradnorm(self, losses: Tensor) -> float:
        """Return the norm of the mean loss's gradient over all parameters of the host."""
        parameters = [p for p in self.host.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
        return float(
            torch.stack([g.double().square().sum() for g in gradients if g is not None]).sum().sqrt()
        )


def graft_scores(
    model: nn.Module,
    chain: Chain,
    batches: Iterable[Batch],
    subsets: Sequence[Sequence[int]],
    *,
    loss: Loss | None = None,
    settings: GraftSettings | None = None,
) -> list[float]:
    """Return the graft score of each subset of units, higher = keep.

    Args:
        model: The trained network; it stays as it is.
        chain: Its units.
        batches: Batches with labels, or of text.
        subsets: Units grafted together, by index.
        loss: As in `collect_evidence`.
        settings: How scores are taken.

    Raises:
        DataError: If there is nothing to compute a loss from.

    Reference: the authors' released code of SGLP (Li et al., 2024, https://arxiv.org/abs/2410.14720).
    """
    settings = settings or GraftSettings()
    host = GraftHost(model, chain, settings)
    few = list(islice(cycle(check_batches(batches)), settings.batches))
    scores: list[float] = []
    for subset in track(subsets, "graft scores"):
        host.graft_(subset)
        norms: list[float] = []
        with seeded(model, settings.seed), torch.enable_grad():
            for batch in few:
                inputs, labels = split_batch(to_device(batch, device_of(model)))
                outputs = call(host.host, inputs)
                losses = sample_losses(outputs, inputs, labels, loss=loss, causal=is_causal(model))
                if losses is None:
                    raise DataError("asked for graft scores: they need labels, text, or loss=.")
                norms.append(host.gradnorm(losses))
        scores.append(sum(norms) / len(norms))
    return scores
