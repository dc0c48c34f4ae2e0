"""CKA layer pruning: the unit goes whose absence leaves the final representation most alike, again and
again, until the budget is met.

Default: no training on the way, and the representation that is to be kept is the original network's:
compared with the one before each removal, small changes add up unseen. `preset="paper"` heals after
every removal and compares with the network that healing has left, as published; nearly all of its time
goes into training.

Reference: Pons et al., 2024, "Effective Layer Pruning Through Similarity Metric Perspective",
https://arxiv.org/abs/2405.17081.

Axes: L units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from shoal.errors import ConfigError
from shoal.importance import ChangeSettings, RepresentationChange
from shoal.journal import fingerprint
from shoal.methods import Method
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.planners import Requirement, check_protection, is_enough, remove_greedily, unprotected
from shoal.surgery import apply
from shoal.training import HealSettings, heal
from shoal.units import Chain, Unit

__all__ = ["METHOD", "CKASettings", "choose"]

Removed = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class CKASettings:
    """How CKA layer pruning compares and removes.

    Attributes:
        similarity: How final representations are compared.
        reference: With what a network without one more unit is compared: the `original` network, or
            the `current` one, healed or not, which still has that unit.
        per_round: How many units go before the others are compared again.
        per_saving: Whether a unit's change counts for what its removal saves of the budget; the lowest
            change goes first where not. The same where all units save alike.
        floor: How many units of every stage stay at least, those that cannot go included. With 0 it is
            one unit of the whole network.
        protect_first: How many units at the beginning of the chain stay in any case.
        protect_last: How many at its end.
        heal: How the network is trained after every round; not at all where it is None.
    """

    similarity: ChangeSettings = field(default_factory=ChangeSettings)
    reference: Literal["original", "current"] = "original"
    per_round: int = 1
    per_saving: bool = True
    floor: int = 0
    protect_first: int = 0
    protect_last: int = 0
    heal: HealSettings | None = None

    def __post_init__(self) -> None:
        for name, least in (("per_round", 1), ("floor", 0)):
            if (found := getattr(self, name)) < least:
                raise ConfigError(f"asked for {name}={found}: numbers from {least} upwards work.")
        check_protection(self.protect_first, self.protect_last)


PAPER = CKASettings(
    similarity=ChangeSettings(estimator="biased", exact=2048),
    reference="current",
    per_saving=False,
    floor=2,
    protect_first=1,
    heal=HealSettings(
        epochs=200,
        optimizer="sgd",
        lr=0.01,
        weight_decay=1e-4,
        warmup=0.0,
        clip=None,
        distil=0.0,
        recalibrate_batches=0,
    ),
)


def choose(request: Request, settings: CKASettings) -> Plan:
    """Return the plan that CKA layer pruning chooses; with healing, the healed network is left in
    `request.shallower`.

    Raises:
        BudgetError: If no plan meets the budget; names the floor and the nearest that can be had.
        DataError: If the batches do not allow the comparison, or healing.
        UnitError: If every unit is protected.
    """
    request.shallower = None
    table = request.latency if request.budget.quantity == "latency" else None
    goal = Requirement.of(request.chain, request.budget, table)
    candidates = unprotected(request.chain, first=settings.protect_first, last=settings.protect_last)
    most = _most_saved(request.chain, candidates, goal.savings, settings.floor)
    goal.check(most(()), _circumstance(settings))
    rounds = _Rounds(request, settings, goal.savings)
    removed: Removed = ()
    if goal.need > 0:
        removed = remove_greedily(
            candidates,
            goal.savings,
            goal.need,
            costs=rounds.costs,
            keeps=lambda units: is_enough(most(units), goal.need),
            together=settings.per_round,
        )
    if settings.heal is not None and removed:
        # What the network was healed without does not come back.
        removed = tuple(dict.fromkeys((*rounds.gone, *removed)))
        rounds.heal_without(removed, settings.heal)
        request.shallower = rounds.model
    known = {"order": list(removed), "changes": [rounds.changes[unit] for unit in removed]}
    return request.plan(removed, method="cka", settings=asdict(settings), predicted=known)


def _most_saved(
    chain: Chain, candidates: Iterable[int], savings: Sequence[float], floor: int
) -> Callable[[Iterable[int]], float]:
    """Return a function of removed units: the most that can be saved if they go and every stage keeps
    its floor; less than nothing where it has not kept it.
    """
    free = frozenset(candidates)
    stages = chain.groups.values() if floor else [tuple(range(len(chain)))]

    def most(removed: Iterable[int]) -> float:
        gone, saved = frozenset(removed), 0.0
        for stage in stages:
            out = gone.intersection(stage)
            room = max(0, len(stage) - max(floor, 1)) - len(out)
            if room < 0:
                return -math.inf
            rest = sorted((savings[unit] for unit in free.intersection(stage) - gone), reverse=True)
            saved += math.fsum([*(savings[unit] for unit in out), *(max(0.0, s) for s in rest[:room])])
        return saved

    return most


def _circumstance(settings: CKASettings) -> str:
    kept = [f"{settings.floor} units of every stage" if settings.floor else "one unit"]
    for end, count in (("first", settings.protect_first), ("last", settings.protect_last)):
        kept += [f"the {end} {count}"] if count else []
    return f"with {' and '.join(kept)} kept"


class _Rounds:
    """The network as healing has left it, and how far each removal changed it.

    Attributes:
        model, chain: The network and its units.
        gone: Units of the original chain that it has been healed without, the first to go first.
        changes: By unit of the original chain, 1 - CKA when it was last compared.
    """

    def __init__(self, request: Request, settings: CKASettings, savings: Sequence[float]) -> None:
        self.request, self.settings, self.savings = request, settings, savings
        self.model: nn.Module = request.model
        self.chain = request.chain
        self.gone: Removed = ()
        self.changes: dict[int, float] = {}
        self._training = request.batches if request.heal_batches is None else request.heal_batches
        self._key = request.key
        self._compare()

    def costs(self, removed: Removed, sets: Sequence[Removed]) -> list[float]:
        """Return what orders the larger sets, each with one unit more than is removed, as they shall go."""
        if self.settings.heal is not None:
            self.heal_without(removed, self.settings.heal)
        place = self._places()
        before = [place[unit] for unit in removed if unit in place]
        wanted = [before, *([place[unit] for unit in units if unit in place] for units in sets)]
        reference = before if self.settings.reference == "current" else []
        now, *found = self._change.of(wanted, reference=reference)
        added = [min(set(units) - set(removed)) for units in sets]
        self.changes |= dict(zip(added, found, strict=True))
        if self.settings.per_saving:
            return [change - now for change in found]
        # Greedy search divides by what is saved.
        return [change * self.savings[unit] for unit, change in zip(added, found, strict=True)]

    def heal_without(self, removed: Removed, settings: HealSettings) -> None:
        """Take units out of the network that are still in it, and heal what remains."""
        fresh, place, request = [u for u in removed if u not in self.gone], self._places(), self.request
        if not fresh:
            return
        step = Plan.removing(self.chain, [place[unit] for unit in fresh])
        self._key = f"{request.key}/{fingerprint(self._key, asdict(settings), self._data_key, fresh)}"
        taught = settings.distil > 0 or settings.features > 0
        begun = f"{self._key}/healing"
        resume = begun in request.journal
        request.journal[begun] = True
        self.model = heal(
            apply(self.model, step),
            self._training,
            teacher=request.model if taught else None,
            plan=Plan.removing(request.chain, removed),
            settings=settings,
            loss=request.loss,
            checkpoint=_checkpoint(request.journal.path, self._key),
            resume=resume,
        )
        self.chain = _shortened(self.chain, step)
        self.gone = removed
        self._compare()

    @cached_property
    def _data_key(self) -> str:
        """Hash of the batches that healing sees, in the order in which its seed puts them."""
        heal = self.settings.heal or HealSettings()
        most = None if heal.max_steps is None else max(heal.max_steps, heal.recalibrate_batches)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(heal.seed)
            return self.request.fingerprint_of(islice(self._training, most))

    def _places(self) -> dict[int, int]:
        """Index in the original chain → index now, of the units that are still there."""
        return Plan.removing(self.request.chain, self.gone).index_map

    def _compare(self) -> None:
        request, settings = self.request, self.settings
        original = (request.model, request.chain) if settings.reference == "original" else None
        self._change = RepresentationChange(
            self.model,
            self.chain,
            request.batches,
            settings=settings.similarity,
            against=original if self.gone else None,
            journal=request.journal,
            key=self._key,
        )


def _checkpoint(journal: Path | None, key: str) -> Path | None:
    return None if journal is None else journal.with_name(f"{journal.name}.{fingerprint(key)}.safetensors")


def _shortened(chain: Chain, plan: Plan) -> Chain:
    """Return the units that are left, as they are named and numbered now."""
    units = tuple(
        replace(_renamed(chain[old], plan.surviving_names[chain[old].name]), index=new)
        for old, new in plan.index_map.items()
    )
    gone = [chain[index] for index in plan.removed]
    return replace(
        chain,
        units=units,
        params=chain.params - sum(unit.params for unit in gone),
        macs=chain.macs - sum(unit.macs for unit in gone),
    )


def _renamed(unit: Unit, name: str) -> Unit:
    container, dot, entries = name.rpartition(".")
    start, colon, stop = entries.partition(":")
    modules = (name,) if len(unit.modules) == 1 else unit.modules
    if colon:
        modules = tuple(f"{container}{dot}{number}" for number in range(int(start), int(stop)))
    return replace(unit, name=name, modules=modules, container=modules[0].rpartition(".")[0])


METHOD = Method(
    name="cka",
    help="the unit goes whose absence changes the final representation least (CKA), again and again",
    settings=CKASettings,
    presets={"default": CKASettings(), "paper": PAPER},
    choose=choose,
)
