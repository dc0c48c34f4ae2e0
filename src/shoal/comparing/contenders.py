"""Who takes part in a comparison: methods with their settings and the seeds that they are run with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from shoal.errors import ConfigError
from shoal.methods import Method, get, names, settings_for

__all__ = ["Contender", "check_seeds", "contenders"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method in a comparison.

    Attributes:
        label: What it is called there: the method's name, or `name:preset`.
        method: The method.
        settings: Its settings.
        seeds: One row is made for each.
        draws: Whether the seeds are of what it draws, too, and not of healing alone.
    """

    label: str
    method: Method
    settings: Any
    seeds: tuple[int, ...]
    draws: bool

    def at(self, seed: int) -> Any:
        """Return the settings for a seed."""
        return replace(self.settings, seed=seed) if self.draws else self.settings


def contenders(
    labels: Iterable[str] | None,
    settings: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int],
    heal_seeds: int = 1,
) -> tuple[Contender, ...]:
    """Return the methods that are meant, in the order given.

    Args:
        labels: Names of methods, or `name:preset`; every method with its defaults where it is None.
        settings: Settings by label, each as `settings_for` takes them.
        seeds: For methods that draw.
        heal_seeds: How many of the seeds the others are healed with.

    Raises:
        ConfigError: If a label is unknown or given twice, there are none, or settings belong to none
            of them or do not work.

    Example:
        >>> [each.label for each in contenders(["sglp", "sglp:paper"], seeds=(0,))]
        ['sglp', 'sglp:paper']
    """
    wanted, given = list(names() if labels is None else labels), dict(settings or {})
    if not wanted:
        raise ConfigError(f"asked to compare no methods: there are {', '.join(sorted(names()))}.")
    twice = sorted({label for label in wanted if wanted.count(label) > 1})
    if twice:
        raise ConfigError(f"asked to compare {', '.join(twice)} twice: name each once.")
    for label in given:
        if label not in wanted:
            near = get_close_matches(str(label), wanted, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"asked for settings of {label!r}, which is not compared: there are {', '.join(wanted)}. "
                f"The nearest is {near!r}."
            )
    return tuple(_contender(label, given.get(label), tuple(seeds), heal_seeds) for label in wanted)


def check_seeds(seeds: Sequence[int], heal_seeds: int, *, healing: bool) -> None:
    """Check the seeds of a comparison.

    Args:
        seeds: For methods that draw.
        heal_seeds: How many of them the others are healed with.
        healing: Whether there is healing.

    Raises:
        ConfigError: If there are none, one is there twice, or fewer than there is healing with.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"asked for the seeds {list(seeds)}: one or more, each of them once, work.")
    if not 1 <= heal_seeds <= len(seeds):
        raise ConfigError(
            f"asked to heal with {heal_seeds} of {len(seeds)} seeds: 1 to {len(seeds)} work, or more seeds."
        )
    if heal_seeds > 1 and not healing:
        raise ConfigError(f"asked to heal with {heal_seeds} seeds, and not to heal: ask for healing, too.")


def _contender(label: str, given: Any, seeds: tuple[int, ...], heal_seeds: int) -> Contender:
    name, _, preset = label.partition(":")
    method = get(name)
    # An instance says all that the preset would.
    found = settings_for(method, given, None if isinstance(given, method.settings) else preset or None)
    seeded = "seed" in {each.name for each in fields(found)}
    draws = seeded and (method.draws or bool(preset))
    if draws and isinstance(given, Mapping) and "seed" in given:
        raise ConfigError(
            f"asked for seed={given['seed']} of {label}, which is run once for each seed of the comparison: "
            "give it those seeds."
        )
    return Contender(
        label=label,
        method=method,
        settings=found,
        seeds=seeds if draws else seeds[:heal_seeds],
        draws=draws,
    )
