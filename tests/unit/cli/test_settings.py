from dataclasses import dataclass, field

import pytest

from shoal.cli.settings import changed, describe_settings, list_methods
from shoal.errors import ConfigError
from shoal.methods import names


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner.

    Attributes:
        steps: How many.
    """

    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings.

    Attributes:
        exchanges: How often.
        share: How much, or none.
        counts: Some numbers.
        inner: More.
    """

    exchanges: int = 3
    share: float | None = None
    counts: tuple[int, ...] | None = None
    inner: Inner = field(default_factory=Inner)


def test_settings_are_replaced_by_name():
    found = changed(Settings(), ["exchanges=0", "share=0.5", "counts=[1, 2]", "inner.steps=4"], of="it")
    assert found == Settings(exchanges=0, share=0.5, counts=(1, 2), inner=Inner(steps=4))


def test_no_settings_change_nothing():
    assert changed(Settings(), (), of="it") == Settings()


def test_a_setting_may_be_taken_back():
    assert changed(Settings(share=0.5), ["share=null"], of="it").share is None


@dataclass(frozen=True, kw_only=True)
class Perhaps:
    inner: Inner | None = None


def test_parts_of_a_setting_that_is_none_begin_with_their_defaults():
    assert changed(Perhaps(), ["inner.steps=3"], of="it") == Perhaps(inner=Inner(steps=3))
    assert changed(Perhaps(inner=Inner()), ["inner=null"], of="it") == Perhaps()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exchnges=1", "no such setting; the nearest is 'exchanges'"),
        ("exchanges", "write key=value"),
        ("exchanges=many", "'many' does not work"),
        ("inner=4", "it has parts of its own: inner.steps"),
        ("inner.step=4", "the nearest is 'steps'"),
        ("exchanges.deep=4", "exchanges has no parts"),
    ],
)
def test_a_fault_says_what_would_work(text, message):
    with pytest.raises(ConfigError, match=message):
        changed(Settings(), [text], of="it")


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError, match=r"settings of it: a: .*; b: "):
        changed(Settings(), ["a=1", "b=2"], of="it")


def test_settings_are_described_with_their_docstrings():
    rows = describe_settings(Settings())
    assert rows[0] == ("exchanges", "3", "How often.")
    assert ("inner.steps", "1", "How many.") in rows


def test_every_method_is_listed(capsys):
    list_methods()
    out = capsys.readouterr().out
    assert all(name in out for name in names())
    assert "presets:" in out
    assert "--set KEY=VALUE" in out


def test_settings_are_listed_in_the_form_in_which_they_are_written(capsys):
    list_methods("THIS=THAT")
    assert "change a setting with --set THIS=THAT" in capsys.readouterr().out
