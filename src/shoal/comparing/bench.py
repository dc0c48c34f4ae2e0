"""Where the networks of a comparison are made, judged and healed, each of them once.

All that is done goes into the journal, so that nothing is done again with the same journal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from shoal.architectures import find_units
from shoal.budget import Budget
from shoal.calling import Batch, check_batches, device_of
from shoal.comparing.contenders import Contender
from shoal.comparing.reordering import Reordered
from shoal.comparing.sharing import Passes, SharingRequest
from shoal.comparison import Row
from shoal.journal import fingerprint
from shoal.measurement import (
    LatencySettings,
    SampleLosses,
    describe_device,
    evaluate_samples,
    measure_pair,
)
from shoal.methods import Request, get
from shoal.pipeline import unhealed
from shoal.plan import Plan
from shoal.result import Measurement
from shoal.stages import choose_plan
from shoal.surgery import expand, merge_layers
from shoal.training import HealSettings, heal

__all__ = ["Bench"]


@dataclass(kw_only=True)
class Bench:
    """What is held equal for all networks of a comparison.

    Attributes:
        request: The network, its units, the data to choose by and the journal; whatever its budget.
        train: Batches to heal on, in this order with the first seed; with others in an order drawn
            from the seed, since little else in healing may depend on it.
        evaluation: Batches to judge by.
        heal: How to heal; not at all where it is None.
        latency: How latency is measured; not at all where it is None.
        first_seed: The first of the seeds.
    """

    request: Request
    train: Iterable[Batch]
    evaluation: Iterable[Batch]
    heal: HealSettings | None
    latency: LatencySettings | None
    first_seed: int
    _passes: Passes = field(default_factory=dict, init=False)
    _brought: dict[str, nn.Module] = field(default_factory=dict, init=False)
    _others: dict[str, Request] = field(default_factory=dict, init=False)

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each judged sample counts, `(N,)`; known when a network has been judged."""
        return tuple(self.request.journal[self._name("weights")])

    @property
    def seen(self) -> tuple[str, ...]:
        """What else is done with the data to judge by: `choose`, `heal`, both or, best, nothing."""
        keys = self._data_keys
        uses = ("choose", *(["heal"] if self.heal is not None else []))
        return tuple(use for use in uses if keys[use] == keys["judge"])

    def whole(self, seed: int) -> Row:
        """Return the row of the whole network, which is healed as all others are."""
        plan = Plan.removing(self.request.chain, (), method="whole")
        known = {"method": "whole", "budget": "", "control": True}
        known |= {"asked": {}, "seconds": 0.0, "own_weights": False}
        return self._row(known, plan, seed, plan.identity)

    def row(self, contender: Contender, budget: Budget, seed: int) -> Row:
        """Return the row of what a method chooses under a budget.

        Raises:
            ShoalError: If the method cannot run here, or its network cannot be judged or healed.
        """
        settings = contender.at(seed)
        name = self._name("choice", contender.method.name, asdict(settings), str(budget))
        if not self._chosen(name, seed):
            self._choose(name, contender.method.name, settings, budget)
        choice = dict(self.request.journal[name])
        plan = Plan.from_json(json.dumps(choice.pop("plan")))
        known = {"method": contender.label, "budget": str(budget), "control": contender.method.control}
        return self._row(known | choice, plan, seed, name if choice["own_weights"] else plan.identity)

    def _chosen(self, name: str, seed: int) -> bool:
        """Whether a choice is known with all that comes of it, or with what is needed for that."""
        journal = self.request.journal
        if name not in journal:
            return False
        if not journal[name]["own_weights"] or name in self._brought:
            return True
        # A run that stopped leaves no network behind.
        return self._name("network", name, self.latency) in journal and (
            self.heal is None or self._healing_name(name, seed) in journal
        )

    def _choose(self, name: str, method: str, settings: Any, budget: Budget) -> None:
        request = SharingRequest.of(self._request_for(method), budget, self._passes)
        begun = time.perf_counter()
        plan = choose_plan(request, method, settings=settings)
        seconds = time.perf_counter() - begun
        # The rows of one choice follow each other, so that one network is kept at most.
        self._brought = {} if request.shallower is None else {name: request.shallower}
        self.request.journal[name] = {
            "plan": json.loads(plan.to_json()),
            "asked": request.asked,
            "seconds": seconds,
            "own_weights": bool(self._brought),
        }

    def _request_for(self, method: str) -> Request:
        """The request with the units that a method works on."""
        wanted = get(method).granularity
        if wanted is None or wanted == self.request.granularity:
            return self.request
        if wanted not in self._others:
            chain = find_units(self.request.model, self.request.example, granularity=wanted)
            self._others[wanted] = replace(self.request, chain=chain, granularity=wanted, evidence=None)
            self._others[wanted].key = self.request.key
        return self._others[wanted]

    def _row(self, known: Mapping[str, Any], plan: Plan, seed: int, identity: str | tuple[Any, ...]) -> Row:
        """The row of a network that is known by the units removed, or by the choice that brought it."""

        @cache
        def network() -> nn.Module:
            return (
                expand(self.request.model, plan) if isinstance(identity, tuple) else self._brought[identity]
            )

        def judged() -> dict[str, Any]:
            small = unhealed(plan, network(), self.train)
            return self._judge(merge_layers(self.request.model, plan, small))

        made = self._once(self._name("network", identity, self.latency), judged)
        healed = None
        if self.heal is not None:
            settings = replace(self.heal, seed=seed)
            name = self._healing_name(identity, seed)
            healed = self._once(name, lambda: self._healed(network(), plan, settings))
        return Row(
            **known,
            plan=plan,
            seed=seed,
            measured=Measurement(**made["measured"]),
            latency_whole=made["latency_whole"],
            healed=None if healed is None else healed["quality"],
            losses=tuple((healed or made)["losses"]),
            unhealed_losses=() if healed is None else tuple(made["losses"]),
        )

    def _healing_name(self, identity: str | tuple[Any, ...], seed: int) -> str:
        return self._name("healed", identity, self.heal, seed, seed == self.first_seed)

    def _judge(self, network: nn.Module) -> dict[str, Any]:
        before, after = measure_pair(
            self.request.model,
            network,
            self.request.example,
            latency=self.latency is not None,
            settings=self.latency,
        )
        quality = self._quality(network)
        after = replace(after, quality=quality.quality)
        if self._name("weights") not in self.request.journal:
            self.request.journal[self._name("weights")] = quality.weights.tolist()
        return {
            "measured": after.as_json(),
            "latency_whole": before.latency,
            "losses": _rounded(quality.losses),
        }

    def _healed(self, network: nn.Module, plan: Plan, settings: HealSettings) -> dict[str, Any]:
        first = settings.seed == self.first_seed
        healed = heal(
            network,
            self.train if first else Reordered(self.train, settings.seed),
            teacher=self.request.model,
            plan=plan,
            settings=settings,
            loss=self.request.loss,
        )
        quality = self._quality(merge_layers(self.request.model, plan, healed))
        return {"quality": dict(quality.quality), "losses": _rounded(quality.losses)}

    def _quality(self, network: nn.Module) -> SampleLosses:
        return evaluate_samples(network, self.evaluation, loss=self.request.loss)

    def _once(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        if name not in self.request.journal:
            self.request.journal[name] = make()
        found: dict[str, Any] = self.request.journal[name]
        return found

    @cached_property
    def _data_keys(self) -> dict[str, str]:
        """Hash of the data by its use."""
        used = {"choose": self.request.batches, "heal": self.train, "judge": self.evaluation}
        found = {id(batches): batches for batches in used.values()}
        keys = {
            place: self.request.fingerprint_of(check_batches(batches)) for place, batches in found.items()
        }
        return {use: keys[id(batches)] for use, batches in used.items()}

    def _name(self, kind: str, *parts: object) -> str:
        return f"{self._key}/{kind}/{fingerprint(*parts)}"

    @cached_property
    def _key(self) -> str:
        """Hash of all that is held equal, apart from the settings of healing and of latency."""
        request = self.request
        example = dict(request.example) if isinstance(request.example, Mapping) else request.example
        return fingerprint(
            request.key,
            self._data_keys["heal"],
            self._data_keys["judge"],
            [
                (tuple(leaf.shape), str(leaf.dtype))
                for leaf in tree_leaves(example)
                if isinstance(leaf, Tensor)
            ],
            describe_device(device_of(request.model)),
        )


def _rounded(losses: Tensor) -> list[float]:
    # More digits than a float32 has would only fill the journal.
    return [float(f"{loss:.7g}") for loss in losses.tolist()]
