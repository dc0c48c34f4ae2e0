"""Scores of units from one backward pass, whether it runs in one go or unit by unit.

For unit l with branch F = output - input and output gradient g, a sample i gives s_i = <g_i, F_i>:
the first-order loss of sample i that the unit saves. Higher = keep in every score.

Shapes: L = units, B = batch, N = samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shoal.activations import Boundaries, flattened, lies_channels_last
from shoal.importance.weights import parameters_of, parts, taylor_sum
from shoal.units import Chain, Unit

__all__ = ["GradientScores", "gradients_of"]


@contextmanager
def gradients_of(model: nn.Module, chain: Chain) -> Iterator[None]:
    """Let exactly the units' parameters collect gradients, inside the `with`; then restore all.

    Gradients of other parameters (embeddings, heads) are not needed and not computed.
    """
    wanted = {id(p) for unit in chain for p in parameters_of(model, unit)}
    before = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.grad = None
            parameter.requires_grad_(id(parameter) in wanted and parameter.is_floating_point())
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


class GradientScores:
    """Running sums over samples; parameter gradients are summed by autograd itself."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.samples = 0
        self._loss = 0.0
        self._sums = np.zeros((4, len(chain)))
        self._weights = np.zeros((2, len(chain)))

    @property
    def mean_loss(self) -> float:
        """Mean loss of a sample."""
        return self._loss / self.samples

    def count(self, losses: Tensor) -> None:
        """Count the samples whose losses were just differentiated, `(B,)`."""
        self.samples += len(losses)
        self._loss += float(losses.double().sum())

    def merge(self, other: GradientScores) -> None:
        """Add the samples that another one has counted; gradients of parameters are not its own."""
        self.samples += other.samples
        self._loss += other._loss
        self._sums = self._sums + other._sums

    @contextmanager
    def watching(self, boundaries: Boundaries) -> Iterator[None]:
        """Collect, while a backward pass runs inside the `with`, what it says of every unit."""
        with ExitStack() as stack:
            for unit in self.chain:
                before, after = boundaries.inputs[unit.index], boundaries.outputs[unit.index]
                if after is not None and before is not None and after.requires_grad:
                    hook = self._collector(unit, before.detach(), after.detach())
                    stack.callback(after.register_hook(hook).remove)
            yield

    def _collector(self, unit: Unit, before: Tensor, after: Tensor) -> Callable[[Tensor], None]:
        return lambda gradient: self.add(unit, before, after, gradient)

    def add(self, unit: Unit, before: Tensor, after: Tensor, gradient: Tensor) -> None:
        """Collect what one batch says of one unit.

        Args:
            unit: The unit.
            before: Hidden state that went in.
            after: Hidden state that came out.
            gradient: Gradient of the batch's summed losses at `after`.
        """
        last = lies_channels_last(gradient)
        flat, out = flattened(gradient, channels_last=last), flattened(after, channels_last=last)
        saved = _products(flat, out)
        if not unit.is_branch and before.shape == after.shape:
            saved = saved - _products(flat, flattened(before, channels_last=last))
        norms = torch.linalg.vector_norm(flat, dim=1, dtype=_wide(flat)).double()
        terms = (-saved + saved.square() / 2, norms, saved, saved.abs())
        self._sums[:, unit.index] += [float(term.sum()) for term in terms]

    def weigh(self, unit: Unit, parameters: Iterable[nn.Parameter]) -> None:
        """Take what the gradients say that parameters of a unit have collected over all batches.

        Args:
            unit: The unit.
            parameters: Some of its parameters, or all; each is to be taken once.
        """
        parameters = list(parameters)
        self._weights[:, unit.index] += _squares(parameters), taylor_sum(parameters)

    def scores(self, model: nn.Module) -> dict[str, NDArray[np.float64]]:
        """Return the scores by name, each `(L,)`, while all parameters have their gradients.

        The scores are those of `summary`.
        """
        for unit in self.chain:
            self.weigh(unit, parameters_of(model, unit))
        return self.summary()

    def summary(self) -> dict[str, NDArray[np.float64]]:
        """Return the scores by name, each `(L,)`, when all units were weighed.

        - `drop_estimate`: mean of -s + s²/2, the loss of switching the unit off to second order, the
          second derivative taken from the empirical Fisher information.
        - `output_gradnorm`: mean norm of the gradient that reaches the unit's output.
        - `abs_mean_saving`, `mean_abs_saving`: |mean s| and mean |s|.
        - `gradnorm`: norm of the mean gradient of the unit's parameters; `gradnorm_scaled`: the same
          over the root of their number.
        - `taylor`: sum over the unit's parameters of |mean gradient · weight|, as in Shortened LLaMA
          (Kim et al., 2024, https://arxiv.org/abs/2402.02834).
        """
        drop, outputs, saving, absolute = self._sums / self.samples
        sizes = np.array([max(unit.params, 1) for unit in self.chain])
        squares, taylor = self._weights
        gradnorm = np.sqrt(squares) / self.samples
        return {
            "drop_estimate": drop,
            "output_gradnorm": outputs,
            "abs_mean_saving": np.abs(saving),
            "mean_abs_saving": absolute,
            "gradnorm": gradnorm,
            "gradnorm_scaled": gradnorm / np.sqrt(sizes),
            "taylor": taylor / self.samples,
        }


def _products(first: Tensor, second: Tensor) -> Tensor:
    """Row-wise inner products, `(B,)`, formed in float32 at least."""
    wide = _wide(first)
    return torch.linalg.vecdot(first.to(wide), second.to(wide)).double()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _squares(parameters: Iterable[nn.Parameter]) -> float:
    gradients = (parameter.grad for parameter in parameters if parameter.grad is not None)
    return math.fsum(float(part.double().square().sum()) for each in gradients for part in parts(each))
