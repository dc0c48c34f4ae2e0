"""What a method is asked, checked before long work begins: network, units, data, budget."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import Batch, Inputs, check_batches, first_sample, split_batch
from shoal.errors import ConfigError, DataError, UnitError
from shoal.journal import Journal
from shoal.measurement import Loss
from shoal.methods import Request, get
from shoal.result import Evidence
from shoal.units import Granularity

__all__ = ["example_of", "make_request", "units_of"]


def make_request(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    budget: str | Budget,
    example: Inputs | None = None,
    loss: Loss | None = None,
    evidence: Evidence | None = None,
    journal: Journal | None = None,
    granularity: Granularity = "block",
) -> Request:
    """Return what a method is asked: the network, its units, the data, the budget.

    Args:
        model, batches, budget, example, loss, evidence, journal, granularity: As for `make_plan`.

    Raises:
        BudgetError, DataError, UnitError: As `make_plan`.
    """
    wanted, example = Budget.parse(budget), example_of(batches, example)
    chain = find_units(model, example, granularity=granularity)
    if not chain.removable and granularity != "layer":
        why = "; ".join(sorted({unit.why for unit in chain}))
        raise UnitError(
            f"asked to meet {wanted} with {chain.model}: it has {len(chain)} units and none may be "
            f"removed: {why}."
        )
    if evidence is not None and [u.name for u in evidence.chain] != [u.name for u in chain]:
        raise DataError(
            f"asked to use evidence of {len(evidence.chain)} units of {evidence.chain.model} on "
            f"{chain.model} with {len(chain)}: it was collected from another model. Run analyze on this one."
        )
    return Request(
        model=model,
        chain=chain,
        batches=batches,
        example=example,
        budget=wanted,
        loss=loss,
        evidence=evidence,
        journal=Journal() if journal is None else journal,
        granularity=granularity,
    )


def units_of(method: str, granularity: Granularity) -> Granularity:
    """Return what the units of a method are: its own where it brings them.

    Args:
        method: Its name.
        granularity: What was asked for, as for `find_units`.

    Raises:
        ConfigError: If there is no such method, or other units were asked for than its own.
    """
    own = get(method).granularity
    if own is not None and granularity not in ("block", own):
        raise ConfigError(
            f"asked for {method} with units of the granularity {granularity}: its units are of the "
            f"granularity {own}. Leave granularity out."
        )
    return own or granularity


def example_of(batches: Iterable[Batch], example: Inputs | None) -> Inputs:
    """Return what the model's forward takes: the example, or the first sample of the batches.

    Raises:
        DataError: If there is no example, and the batches are none.
    """
    if example is not None:
        return example
    return first_sample(split_batch(next(iter(check_batches(batches))))[0])
