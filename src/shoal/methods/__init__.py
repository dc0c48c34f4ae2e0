"""The methods by name. A method turns a request (network, data, budget) into a plan.

Each lives in a file of its own and only composes the stages below it; none imports another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from shoal.errors import ConfigError
from shoal.methods.request import Request
from shoal.plan import Plan

__all__ = ["Method", "Request", "get", "names", "settings_for"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to choose what to remove.

    Attributes:
        name: What users type.
        help: One line for those who choose.
        settings: Its settings; the defaults are the best we know.
        presets: Other settings by name; `paper` is faithful to the publication.
        choose: From a request and settings to a plan.
    """

    name: str
    help: str
    settings: type[Any]
    presets: dict[str, Any]
    choose: Callable[[Request, Any], Plan]


_FILES = {"sglp": "sglp"}


def names() -> dict[str, str]:
    """Return every method's name with a line of help.

    Example:
        >>> "sglp" in names()
        True
    """
    return {name: get(name).help for name in _FILES}


def get(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ConfigError: If there is none; the nearest is named.
    """
    if name not in _FILES:
        near = get_close_matches(str(name), _FILES, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"asked for the method {name!r}: there are {', '.join(sorted(_FILES))}. The nearest is {near!r}."
        )
    method: Method = import_module(f"shoal.methods.{_FILES[name]}").METHOD
    return method


def settings_for(method: Method, settings: Any = None, preset: str | None = None) -> Any:
    """Return the settings meant by a preset's name, a mapping of some of them, or an instance.

    Raises:
        ConfigError: If there is no such preset or setting; the nearest is named.
    """
    if preset is not None and preset not in method.presets:
        raise ConfigError(
            f"asked for the preset {preset!r} of {method.name}: there are {', '.join(method.presets)}."
        )
    base = method.presets[preset] if preset is not None else method.settings()
    if settings is None:
        return base
    if isinstance(settings, method.settings):
        return settings
    known = list(vars(base))
    for key in settings:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"asked for the setting {key!r} of {method.name}: there is none. The nearest is {near!r}."
            )
    return method.settings(**(vars(base) | dict(settings)))
