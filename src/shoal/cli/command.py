"""From an options dataclass to a verb of the command line: its fields are the flags, their
docstrings the help, a recipe may give them too.

A field without a default is required. `Flag` says what its type does not.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Annotated, Any, TypeVar

import typer

from shoal.cli.recipe import read_recipe
from shoal.errors import ConfigError

__all__ = ["Flag", "add_verb", "field_help", "settle", "typed_name"]

Chosen = TypeVar("Chosen")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """What the command line has to know of a field beside its type.

    Attributes:
        short: A short form, such as `-o`.
        metavar: What stands for the value in the help.
        positional: Whether it is typed without a name.
        action: For a switch that does one thing and ends the command: that thing.
    """

    short: str = ""
    metavar: str = ""
    positional: bool = False
    action: Callable[[], None] | None = None


def add_verb(app: typer.Typer, name: str, options: type[Chosen], run: Callable[[Chosen], None]) -> None:
    """Add a verb to the application.

    Args:
        app: The application.
        name: What users type.
        options: A dataclass; its fields become the verb's flags.
        run: Does the work; its docstring becomes the verb's help.
    """

    def invoke(**given: Any) -> None:
        run(settle(name, options, given))

    parameters = _parameters(options)
    invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name, help=_escaped(_flowing(inspect.getdoc(run) or "")))(invoke)


def settle(verb: str, options: type[Chosen], given: dict[str, Any]) -> Chosen:
    """Return the options: what was typed, else what the recipe says, else the defaults.

    Raises:
        ConfigError: If something required is missing, or the recipe is at fault; all faults at once.
    """
    typed = {name: value for name, value in given.items() if value is not None and value != []}
    for name in [name for name in typed if name.startswith("no_")]:
        del typed[name]
        typed[name.removeprefix("no_")] = False
    recipe = read_recipe(typed["config"], options, verb) if typed.get("config") else {}
    values = recipe | typed
    known = {each.name: each for each in fields(options)}  # type: ignore[arg-type]
    missing = [
        typed_name(options, name) for name, each in known.items() if _required(each) and name not in values
    ]
    if missing:
        raise ConfigError(
            f"asked for `shoal {verb}` without {' and '.join(missing)}: give it on the command line or in "
            f"a recipe. `shoal {verb} --help` lists what works."
        )
    hints = typing.get_type_hints(options)
    return options(**{name: tuple(v) if _many(hints[name]) else v for name, v in values.items()})


def typed_name(options: type[Any], name: str) -> str:
    """Return how users type a field: `--batch-size`, or `MODEL` for one without a name."""
    flag = _flag(typing.get_type_hints(options, include_extras=True)[name])
    return (flag.metavar or name.upper()) if flag.positional else f"--{name.replace('_', '-')}"


def field_help(options: type[Any]) -> dict[str, str]:
    """Return what the docstrings of a dataclass and those it extends say of each field.

    Example:
        >>> field_help(Flag)["short"]
        'A short form, such as `-o`.'
    """
    found: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        section = inspect.cleandoc(kind.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        for names, text in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            for name in names.split(", "):
                found[name] = " ".join(text.split())
    return found


def _parameters(options: type[Any]) -> list[inspect.Parameter]:
    """The verb's own options first, then those of every group, with what is typed without a name ahead."""
    hints, told = typing.get_type_hints(options, include_extras=True), field_help(options)
    known = {each.name: each for each in fields(options)}
    places: dict[str, type[Any]] = {}
    for kind in options.__mro__:
        for name in inspect.get_annotations(kind):
            places.setdefault(name, kind)
    ahead = [name for name in known if _flag(hints[name]).positional]
    names = ahead + [name for name in places if name in known and name not in ahead]
    parameters = []
    for name in names:
        panel = (
            None if places[name] is options else inspect.cleandoc(places[name].__doc__ or "").split(".")[0]
        )
        info = _information(
            known[name], hints[name], _escaped(told.get(name, "") + _default(known[name])), panel
        )
        parameters.append(_keyword(name, list[str] if _many(hints[name]) else _bare(hints[name]), info))
        if _bare(hints[name]) is bool and _flag(hints[name]).action is None:
            # So that the command line can take back what a recipe says.
            off = f"--no-{name.replace('_', '-')}"
            parameters.append(_keyword(f"no_{name}", bool, typer.Option(off, hidden=True)))
    return parameters


def _keyword(name: str, kind: Any, info: Any) -> inspect.Parameter:
    annotation = Annotated[kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _information(each: Field[Any], hint: Any, text: str, panel: str | None) -> Any:
    flag = _flag(hint)
    if flag.positional:
        return typer.Argument(help=text, metavar=flag.metavar or each.name.upper(), show_default=False)
    dashed = f"--{each.name.replace('_', '-')}"
    return typer.Option(
        *([dashed, flag.short] if flag.short else [dashed]),
        help=text,
        metavar=flag.metavar or None,
        show_default=False,
        callback=_ending(flag.action) if flag.action else None,
        is_eager=flag.action is not None,
        rich_help_panel=panel,
    )


def _ending(action: Callable[[], None]) -> Callable[[bool | None], None]:
    def act(wanted: bool | None) -> None:
        if wanted:
            action()
            raise typer.Exit

    return act


def _default(each: Field[Any]) -> str:
    told = each.default is not MISSING and each.default is not None and each.default not in (False, ())
    return f" Default: {each.default}." if told else ""


def _required(each: Field[Any]) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _flag(hint: Any) -> Flag:
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Flag)), Flag())


def _bare(hint: Any) -> Any:
    """Return the type without its notes and without None."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _many(hint: Any) -> bool:
    return typing.get_origin(_bare(hint)) is tuple


def _flowing(text: str) -> str:
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _escaped(text: str) -> str:
    # What stands in brackets would be taken for a style.
    return text.replace("[", r"\[")
