"""What an adapter of peft calls modules → what it has to call them after a plan.

An adapter names modules in the keys of its weights, in full, and in its config: in full, by the ends of
their names, or by patterns. What would mean other layers once these have other numbers is written out as
the modules that the weights name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from shoal.errors import ConfigError, PlanError
from shoal.plan import Plan

__all__ = ["Moves", "refit_config"]

_LORA = re.compile(r"(?:\.base_layer)*\.lora_.*")
_NAME = re.compile(r"[\w.]+")


class Moves:
    """Where modules stand after a plan, by the names that an adapter gives them.

    The adapter may be that of a network around the plan's, or inside it: then its names have a part in
    front that the plan's lack, or the other way round.

    Args:
        plan: The plan.
        names: Names of the adapter's weights.
        asked: What was asked, for messages.

    Attributes:
        modules: Names of the modules that have low-rank matrices.

    Raises:
        PlanError: If the adapter's lists of layers are not those of the plan, or are longer.
        ConfigError: If they might be several of the plan's.
    """

    def __init__(self, plan: Plan, names: Iterable[str], asked: str) -> None:
        names = list(names)
        plan.check_removes(asked)
        self.asked = asked
        self.modules = tuple(dict.fromkeys(_LORA.sub("", name) for name in names if _LORA.search(name)))
        self.gone: dict[str, set[int]] = {}
        self.emptied: list[str] = []
        for step in plan.removals:
            for path in step.modules:
                container, _, key = path.rpartition(".")
                if step.removal == "delete" and key.isdecimal():
                    self.gone.setdefault(container, set()).add(int(key))
                else:
                    self.emptied.append(path)
        self._lists = _largest(plan.model.units)
        self._own, self._plans = _fronts(_largest(names), self._lists, asked)

    def of(self, name: str) -> str | None:
        """Return the full name that a module or weight has afterwards; None if it is gone."""
        if not name.startswith(self._own):
            return name
        path = self._plans + name[len(self._own) :]
        if any(f"{path}.".startswith(f"{emptied}.") for emptied in self.emptied):
            return None
        parts = path.split(".")
        for depth, part in enumerate(path.split(".")):
            gone = self.gone.get(".".join(path.split(".")[:depth]), set()) if part.isdecimal() else set()
            if gone and int(part) in gone:
                return None
            if gone:
                parts[depth] = str(int(part) - sum(number < int(part) for number in gone))
        return self._own + ".".join(parts)[len(self._plans) :]

    def of_end(self, name: str) -> str | None:
        """Return what a name, or the end of one, has to be afterwards; None if all that it names is gone.

        Raises:
            ConfigError: If it begins with the number of a layer, or fits several lists.
        """
        parts = name.split(".")
        depth = next((depth for depth, part in enumerate(parts) if part.isdecimal()), None)
        if depth is None:
            return name
        front = "".join(f".{part}" for part in parts[:depth])
        lists = [self._own + path[len(self._plans) :] for path in self._lists if path.startswith(self._plans)]
        fit = [path for path in lists if f".{path}".endswith(front)]
        if len(fit) > 1 or (fit and not front):
            raise ConfigError(
                f"{self.asked}: its config names {name!r}, which may be in {_listed(fit)}. Write there the "
                "full names of the modules."
            )
        return self.of(".".join([fit[0], *parts[depth:]])) if fit else name


def _largest(names: Iterable[str]) -> dict[str, int]:
    """The largest number under every list that names lead through."""
    found: dict[str, int] = {}
    for name in names:
        parts = name.partition(":")[0].split(".")
        for depth, part in enumerate(parts):
            if part.isdecimal():
                path = ".".join(parts[:depth])
                found[path] = max(int(part), found.get(path, 0))
    return found


def _fronts(own: Mapping[str, int], plans: Mapping[str, int], asked: str) -> tuple[str, str]:
    """What names have in front of their common end, in the adapter and in the plan."""
    pairs = {
        (ours.removesuffix(theirs), "") if len(ours) > len(theirs) else ("", theirs.removesuffix(ours))
        for ours in own
        for theirs in plans
        if f".{ours}".endswith(f".{theirs}") or f".{theirs}".endswith(f".{ours}")
    }
    if ("", "") in pairs or not own:
        pairs = {("", "")}
    same = "It takes an adapter and a plan for the same network."
    if len(pairs) != 1:
        kind = ConfigError if pairs else PlanError
        raise kind(
            f"{asked}: the plan's layers are in {_listed(plans)}, the adapter's in {_listed(own)}. {same}"
        )
    ((ours, theirs),) = pairs
    for path, largest in own.items():
        last = plans.get(theirs + path.removeprefix(ours), largest)
        if largest > last:
            raise PlanError(
                f"{asked}: it has weights for layer {largest} of {path!r}, and the last one that the plan "
                f"knows is {last}. {same}"
            )
    return ours, theirs


def refit_config(config: Mapping[str, Any], moves: Moves) -> dict[str, Any]:
    """Return the config of an adapter that names the same modules after a plan.

    Raises:
        ConfigError: If it cannot be said which modules it names.
    """
    changed = dict(config)
    if not moves.gone and not moves.emptied:
        return changed
    for field in ("modules_to_save", "target_parameters"):
        if config.get(field):
            changed[field] = [new for name in config[field] if (new := _moved(name, moves)) is not None]
    for field in ("rank_pattern", "alpha_pattern"):
        if config.get(field):
            entries = [(_moved(name, moves), value) for name, value in config[field].items()]
            changed[field] = {name: value for name, value in entries if name is not None}
    if _goes_by_numbers(config):
        # Where parameters are named, peft finds the modules that hold them by these names.
        holders = [f".{name}".rpartition(".")[0] for name in config.get("target_parameters") or ()]
        named = [m for m in moves.modules if not any(f".{m}".endswith(holder) for holder in holders)]
        changed["target_modules"] = sorted(new for name in named if (new := moves.of(name)) is not None)
        changed |= {"exclude_modules": None, "layers_to_transform": None, "layers_pattern": None}
    return changed


def _goes_by_numbers(config: Mapping[str, Any]) -> bool:
    """Whether the modules that it changes are, or may be, chosen by the numbers of their layers."""
    named = [config.get("target_modules") or [], config.get("exclude_modules") or []]
    patterns = [names for names in named if isinstance(names, str) and names != "all-linear"]
    listed = [name for names in named if not isinstance(names, str) for name in names]
    numbered = any(part.isdecimal() for name in listed for part in name.split("."))
    return bool(patterns) or numbered or config.get("layers_to_transform") not in (None, [])


def _moved(name: str, moves: Moves) -> str | None:
    """What a name, or a pattern that is little more than one, has to be afterwards."""
    plain = name.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if _NAME.fullmatch(plain):
        new = moves.of_end(plain)
        return name if new == plain else new
    if re.search(r"\d|\\d|\[", name):
        raise ConfigError(
            f"{moves.asked}: its config has the pattern {name!r}, which may mean layers by their numbers. "
            "Write there the full names of the modules."
        )
    return name


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(repr(path) for path in sorted(paths)) or "no list"
