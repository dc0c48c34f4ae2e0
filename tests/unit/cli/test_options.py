from importlib import import_module

import pytest

from shoal.cli.command import field_help

VERBS = (
    "units",
    "analyze",
    "plan",
    "apply",
    "verify",
    "heal",
    "evaluate",
    "bench",
    "compress",
    "doctor",
    "demo",
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_says_what_it_does(verb):
    options = import_module(f"shoal.cli.{verb}").Options
    assert set(options.__dataclass_fields__) <= set(field_help(options))


@pytest.mark.parametrize("verb", VERBS)
def test_no_help_is_of_an_option_that_is_not_there(verb):
    options = import_module(f"shoal.cli.{verb}").Options
    assert set(field_help(options)) <= set(options.__dataclass_fields__)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_what_it_does(verb):
    assert import_module(f"shoal.cli.{verb}").run.__doc__
