import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

from shoal.cli.command import Flag, add_verb, field_help, settle, typed_name
from shoal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Shared.

    Attributes:
        size: How large,
            over two lines.
        loud: Whether to shout.
        config: A recipe.
    """

    size: int = 3
    loud: bool = False
    config: Path | None = None


def announce():
    sys.stdout.write("acted\n")


@dataclass(frozen=True, kw_only=True)
class Options(Shared):
    """Options of a verb.

    Attributes:
        model: A [network].
        output: Where to.
        set: Settings.
        act: Only act.
    """

    model: Annotated[str, Flag(positional=True, metavar="MODEL")]
    output: Annotated[Path | None, Flag(short="-o")] = None
    set: tuple[str, ...] = ()
    act: Annotated[bool, Flag(action=announce)] = False


def call(*typed):
    found = []
    app = typer.Typer()
    app.callback()(lambda: None)
    add_verb(app, "try", Options, found.append)
    app(["try", *typed], standalone_mode=False)
    return found[0] if found else None


def test_defaults_are_those_of_the_dataclass():
    assert call("net") == Options(model="net")


def test_what_is_typed_counts():
    chosen = call("net", "--size", "5", "--loud", "-o", "out", "--set", "a=1", "--set", "b=2")
    assert chosen == Options(model="net", size=5, loud=True, output=Path("out"), set=("a=1", "b=2"))


def test_the_command_line_overrides_the_recipe_and_the_recipe_the_defaults(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: other\nsize: 7\nloud: true\n")
    assert call("--config", str(recipe)) == Options(model="other", size=7, loud=True, config=recipe)
    assert call("net", "--no-loud", "--size", "8", "--config", str(recipe)) == Options(
        model="net", size=8, config=recipe
    )


def test_an_action_ends_the_command_without_what_is_required(capsys):
    assert call("--act") is None
    assert capsys.readouterr().out == "acted\n"


def test_all_that_is_missing_is_told_at_once():
    @dataclass(frozen=True, kw_only=True)
    class Strict:
        model: str
        output: Path

    with pytest.raises(ConfigError, match="without --model and --output"):
        settle("try", Strict, {})


def test_help_comes_from_the_docstrings_of_all_classes():
    told = field_help(Options)
    assert told["size"] == "How large, over two lines."
    assert told["model"] == "A [network]."


@pytest.mark.parametrize(("field", "typed"), [("model", "MODEL"), ("size", "--size"), ("output", "--output")])
def test_fields_are_named_as_they_are_typed(field, typed):
    assert typed_name(Options, field) == typed
