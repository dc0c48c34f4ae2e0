"""The methods by name. A method turns a request (network, data, budget) into a plan.

Each lives in a file of its own and only composes the stages below it; none imports another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from shoal.errors import ConfigError
from shoal.methods.request import Request
from shoal.plan import Plan
from shoal.units import Granularity

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
        draws: Whether it draws at random, so that another seed may choose otherwise.
        control: Whether it is there for others to be compared with.
        by_evidence: Whether, with given settings, default evidence and what a config says are all that
            it needs: the network is not run for it, budgets of latency aside.
        granularity: What its units are; None where the user says.
        times_itself: Whether it measures, for budgets of latency, what it has chosen.
    """

    name: str
    help: str
    settings: type[Any]
    presets: dict[str, Any]
    choose: Callable[[Request, Any], Plan]
    draws: bool = False
    control: bool = False
    by_evidence: Callable[[Any], bool] = lambda settings: False
    granularity: Granularity | None = None
    times_itself: bool = False


_FILES = (
    "sglp",
    "cka",
    "layermerge",
    "layer_only",
    "depth_merge",
    "best",
    "angular",
    "block_influence",
    "magnitude",
    "taylor",
    "perplexity",
    "sleb",
    "greedy",
    "last",
    "uniform",
    "random",
    "scratch",
)


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
        near = get_close_matches(str(name).lower(), _FILES, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"asked for the method {name!r}: there are {', '.join(sorted(_FILES))}. The nearest is {near!r}."
        )
    method: Method = import_module(f"shoal.methods.{name}").METHOD
    return method


def settings_for(method: Method, settings: Any = None, preset: str | None = None) -> Any:
    """Return the settings meant by a preset's name, a mapping of some of them, or an instance.

    Args:
        method: Whose settings.
        settings: Values by name (settings of settings by a mapping of their own), which replace
            those of the preset; or an instance, for which no preset is named.
        preset: One of the method's; its defaults where it is None.

    Raises:
        ConfigError: If there is no such preset or setting, the nearest being named; or if values do
            not work, all of them at once.
    """
    if preset is not None and preset not in method.presets:
        near = get_close_matches(str(preset), method.presets, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"asked for the preset {preset!r} of {method.name}: there are {', '.join(method.presets)}. "
            f"The nearest is {near!r}."
        )
    base = method.presets[preset] if preset is not None else method.settings()
    if settings is None:
        return base
    if isinstance(settings, method.settings):
        if preset is not None:
            raise ConfigError(
                f"asked for the preset {preset!r} of {method.name} and for settings of its own: name the "
                "preset and pass a mapping of what differs, or pass the settings alone."
            )
        return _validated(method, asdict(settings))
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"asked for settings of {method.name} by a {type(settings).__name__}: a mapping of names to "
            f"values or an instance of {method.settings.__name__} works."
        )
    return _validated(method, _merged(method, asdict(base), settings))


def _merged(
    method: Method, base: Mapping[str, Any], settings: Mapping[str, Any], path: str = ""
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in settings.items():
        if key not in base:
            near = get_close_matches(str(key), base, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"asked for the setting {path + str(key)!r} of {method.name}: there is none. "
                f"The nearest is {path + near!r}."
            )
        if isinstance(base[key], Mapping) and isinstance(value, Mapping):
            value = _merged(method, base[key], value, f"{path}{key}.")
        merged[key] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return merged


def _validated(method: Method, values: Mapping[str, Any]) -> Any:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(method.settings).validate_python(values)
    except ValidationError as error:
        faults: dict[str, str] = {}
        for fault in error.errors():
            # Below a setting pydantic names the alternatives of its type, too.
            path = ".".join(str(part) for part in fault["loc"] if str(part) in _names_in(values))
            said = f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
            faults[path] = f"{faults[path]}, or {said}" if path in faults else said
        listed = "; ".join(f"{path}: {said}" if path else said for path, said in faults.items())
        raise ConfigError(f"asked for settings of {method.name} that do not work: {listed}.") from error


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return import_module(f"shoal.methods.{name}")
    raise AttributeError(f"module 'shoal.methods' has no attribute {name!r}")


def _names_in(values: Mapping[str, Any]) -> set[str]:
    inner = [_names_in(value) for value in values.values() if isinstance(value, Mapping)]
    return set(values).union(*inner)
