"""Options for methods: which, with which preset and which settings."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from shoal.cli.command import Flag
from shoal.cli.settings import changed, list_methods
from shoal.errors import ConfigError

__all__ = ["MethodOptions", "check_untrained", "method_settings", "trains"]


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """How to choose.

    Attributes:
        method: How to choose what to remove; --list-methods shows them.
        preset: paper for the settings of the publication; the best we know where it is not given.
        set: One of the method's settings; may be given again for others.
        list_methods: Show the methods with their settings, and stop.
    """

    method: str = "sglp"
    preset: str | None = None
    set: Annotated[tuple[str, ...], Flag(metavar="KEY=VALUE")] = ()
    list_methods: Annotated[bool, Flag(action=list_methods)] = False


def method_settings(options: MethodOptions, *, seed: int) -> Any:
    """Return the settings of the method that the options ask for.

    Args:
        options: The verb's options.
        seed: For what the method draws at random.

    Raises:
        ConfigError: If there is no such method, preset or setting, or a value does not work.
    """
    from shoal.methods import get, settings_for

    method = get(options.method)
    base = settings_for(method, None, options.preset)
    if "seed" in {each.name for each in fields(base)}:
        base = replace(base, seed=seed)
    asked = f"the method {options.method}"
    try:
        return changed(base, options.set, of=asked)
    except ConfigError as error:
        if options.preset is None:
            raise
        # Where the settings do not work by themselves either, that is what is said.
        changed(method.settings(), options.set, of=asked)
        typed = " ".join(f"--set {each}" for each in options.set)
        raise ConfigError(
            f"asked for the preset {options.preset} of {options.method} with {typed}: they exclude each "
            f"other. Leave one of them out. What the preset sets, and what it needs: {error}"
        ) from error


def trains(settings: Any) -> bool:
    """Return whether a method with these settings trains the network while it chooses."""
    return getattr(settings, "heal", None) is not None


def check_untrained(options: MethodOptions, settings: Any, *, asked: str) -> None:
    """Check that the method leaves nothing but a plan.

    Args:
        options: The verb's options.
        settings: The method's.
        asked: What the user typed that hands back a plan alone.

    Raises:
        ConfigError: If it trains while it chooses.
    """
    if trains(settings):
        raise ConfigError(
            f"asked for {asked} with {options.method} and healing after its rounds: it trains while it "
            "chooses, and a plan holds no weights. `shoal compress` hands back the network that has them; "
            "without training, --set heal=null."
        )
