"""How far the final representation of a network changes when units are left out; no labels are needed.

What the networks without two sets of units share is computed once for both (prefix reuse), and only
sums are kept of what they put out.

Shapes: B = batch, T = tokens, D = width, C H W = channels, height and width, N = samples (or tokens).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.activations import Replay, Rows, rows_of, sharing_order
from shoal.architectures import Head, find_head, hidden_input, hidden_output
from shoal.calling import Batch, Inputs, check_batches, device_of, evaluating, split_batch, to_device
from shoal.errors import ConfigError, DataError
from shoal.journal import Journal, fingerprint
from shoal.progress import length, task
from shoal.similarity import Estimator, ReferenceSums
from shoal.similarity.cka import FEWEST
from shoal.units import Chain

__all__ = ["ChangeSettings", "RepresentationChange"]

Removed = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ChangeSettings:
    """How final representations are compared.

    Attributes:
        estimator: Of linear CKA: `unbiased` (default), or `biased`, which reads too high on few samples.
        exact: The widest representation that is compared over all samples at once, as `ReferenceSums`
            says; wider ones are compared minibatch by minibatch.
        minibatch: Samples of such a minibatch; batches are joined and divided into such.
        tokens: Tokens drawn from every batch, where tokens are the samples.
        seed: Of that draw.
    """

    estimator: Estimator = "unbiased"
    exact: int = 1024
    minibatch: int = 256
    tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        fewest = FEWEST.get(self.estimator, 2)
        for name, least in (("exact", 0), ("minibatch", fewest), ("tokens", fewest)):
            if (found := getattr(self, name)) < least:
                raise ConfigError(
                    f"asked for {self.estimator} CKA with {name}={found}: {least} or more works."
                )


class RepresentationChange:
    """1 - CKA between the final representations of a network with and without some of its units.

    The final representation is what reaches the head (`find_head`): of feature maps the mean over
    space, of tokens every one by itself, scaled to one root mean square. Every set is measured once.

    Args:
        model: The network; it is left as it was found.
        chain: Its units.
        batches: Batches; labels are not used.
        settings: How representations are compared.
        against: Another network with its units, whose representation is the one to be kept; the
            network's own where it is None.
        journal: Where measured values are kept; in memory where it is None.
        key: Prefix of the journal's keys: a hash of weights and data.

    Reference: Pons et al., 2024, https://arxiv.org/abs/2405.17081.
    """

    def __init__(
        self,
        model: nn.Module,
        chain: Chain,
        batches: Iterable[Batch],
        *,
        settings: ChangeSettings | None = None,
        against: tuple[nn.Module, Chain] | None = None,
        journal: Journal | None = None,
        key: str = "",
    ) -> None:
        self.settings = settings or ChangeSettings()
        self.batches = check_batches(batches)
        self.journal = journal if journal is not None else Journal()
        self.measured = 0
        self._network = _Network(model, chain, self.settings)
        self._against = self._network if against is None else _Network(*against, self.settings)
        compared = fingerprint(asdict(self.settings), against is None)
        self._key = f"{key}/change/{compared}"

    def of(
        self,
        sets: Sequence[Iterable[int]],
        *,
        reference: Iterable[int] = (),
        title: str = "comparing representations",
    ) -> list[float]:
        """Return how far the representation without each of these sets of units is from the reference.

        Args:
            sets: Sets of units.
            reference: The units without which the representation is the reference.
            title: What is being done, for the person who waits.

        Returns:
            For each set a number from 0 (the same but for rotation and scale) to 1 (or a little more,
            with the unbiased estimator); infinite where a value is not finite.

        Raises:
            DataError: If there are too few samples, or the reference itself is not finite or nothing
                but noise.
        """
        base = tuple(sorted(set(reference)))
        wanted = [tuple(sorted(set(units))) for units in sets]
        missing = [units for units in dict.fromkeys(wanted) if self._name(base, units) not in self.journal]
        if missing:
            self._measure(base, missing, title)
        return [self.journal[self._name(base, units)] for units in wanted]

    def _name(self, base: Removed, units: Removed) -> str:
        return f"{self._key}/{','.join(map(str, base))}/{','.join(map(str, units))}"

    def _measure(self, base: Removed, sets: Sequence[Removed], title: str) -> None:
        settings, own, other = self.settings, self._network, self._against
        sums = ReferenceSums(settings.estimator, exact=settings.exact, minibatch=settings.minibatch)
        broken: set[Removed] = set()
        known = length(self.batches)
        with ExitStack() as stack:
            advance = stack.enter_context(task(title, known))
            for network in {own, other}:
                stack.enter_context(evaluating(network.model))
            stack.enter_context(torch.no_grad())
            for number, batch in enumerate(self.batches):
                inputs, _ = split_batch(batch)
                first = [base] if other is own else []
                found = own.representations(inputs, [*first, *sets], number)
                reference = found[base] if first else other.representations(inputs, [base], number)[base]
                broken.update(units for units in sets if not found[units].isfinite().all())
                others = [torch.zeros_like(found[u]) if u in broken else found[u] for u in sets]
                sums.update(reference, others)
                advance(1)
        for units, similarity in zip(sets, sums.similarities(), strict=True):
            # Rounding may take the similarity of what is equal past 1.
            change = math.inf if units in broken else max(0.0, 1 - similarity)
            self.journal[self._name(base, units)] = change
        self.measured += len(sets)


class _Network:
    """A network, and where its final representation is found."""

    def __init__(self, model: nn.Module, chain: Chain, settings: ChangeSettings) -> None:
        self.model, self.chain, self.settings = model, chain, settings
        self._head: Head | None = None

    def representations(self, inputs: Inputs, sets: Iterable[Removed], number: int) -> dict[Removed, Tensor]:
        """Return the final representation `(N, D)` without each set of units, of batch `number`."""
        inputs = to_device(inputs, device_of(self.model))
        rows = rows_of(inputs)
        head = self._head = self._head or find_head(
            self.model, self.chain, inputs, tokens=() if rows is None else rows.real.shape
        )
        replay, arrived = Replay(self.model, self.chain, inputs), list[Tensor]()

        def arriving(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            note(hidden_input(args, kwargs))

        def note(state: Tensor | None) -> None:
            # The last call of the last run counts: a run may be repeated.
            arrived[:] = [] if state is None else [self._samples(state, head, rows, number)]

        found: dict[Removed, Tensor] = {}
        with ExitStack() as stack:
            if head.module is not None:
                module = self.model.get_submodule(head.module)
                hook = module.register_forward_pre_hook(arriving, with_kwargs=True)
                stack.callback(hook.remove)
            for removed in sharing_order(sets):
                arrived.clear()
                outputs = replay(removed)
                if head.module is None:
                    note(hidden_output(outputs))
                if not arrived:
                    raise DataError(
                        f"asked for the final representation of {self.chain.model}: nothing arrives at "
                        f"{head.module or 'its output'} on batch {number} (from 0). Batches that take the "
                        "same way through the network work."
                    )
                found[removed] = arrived[0]
        return found

    def _samples(self, state: Tensor, head: Head, rows: Rows | None, number: int) -> Tensor:
        """Return `(N, D)`, in float32 at least: one row a sample, or one for each of some tokens."""
        wide = torch.promote_types(state.dtype, torch.float32)
        if state.dim() == 3 and not head.channels_first:
            return self._tokens(state.detach(), rows, number, wide)
        if state.dim() > 2:
            spread = state if head.channels_first else state.movedim(-1, 1)
            return spread.detach().flatten(2).mean(dim=2, dtype=wide)
        # A copy: the network may overwrite its states.
        return state.detach().reshape(len(state), -1).to(wide, copy=True)

    def _tokens(self, state: Tensor, rows: Rows | None, number: int, wide: torch.dtype) -> Tensor:
        # The same tokens in every run, whatever else is measured.
        generator = torch.Generator().manual_seed(self.settings.seed + number)
        flat = state.flatten(0, 1)
        if rows is not None and state.shape[:2] == rows.real.shape:
            drawn = rows.real.flatten().nonzero().squeeze(1)[rows.drawn(self.settings.tokens, generator)]
        else:
            drawn = torch.randperm(len(flat), generator=generator)[: self.settings.tokens]
        states = flat[drawn.to(flat.device)].to(wide)
        # A few massive channels dominate unless every token has one scale.
        return states / states.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
