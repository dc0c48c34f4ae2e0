"""Methods by name, and what is made of the settings that a caller passes."""

from dataclasses import dataclass, field

import pytest

from shoal import methods
from shoal.errors import ConfigError
from shoal.methods import Method, get, names, settings_for
from shoal.methods.sglp import METHOD, PAPER, SGLPSettings


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 3
    kind: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = 5
    parts: tuple[int, ...] | None = None
    inner: Inner = field(default_factory=Inner)


TOY = Method(
    name="toy",
    help="a toy",
    settings=Settings,
    presets={"default": Settings(), "paper": Settings(steps=9, inner=Inner(size=8))},
    choose=lambda request, settings: None,
)


def test_every_method_has_a_name_a_line_of_help_and_both_presets():
    assert list(names()) == [
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
    ]
    for name, line in names().items():
        method = get(name)
        assert method.name == name
        assert line == method.help != ""
        assert "\n" not in line
        # What no paper describes has no preset of one.
        assert set(method.presets) == ({"default"} if name == "best" else {"default", "paper"})
        assert method.presets["default"] == method.settings()


@pytest.mark.parametrize(
    ("name", "near"),
    [("sgpl", "sglp"), ("taylr", "taylor"), ("block-influence", "block_influence"), ("", ".*"), ("X", ".*")],
)
def test_an_unknown_method_is_refused_and_the_nearest_named(name, near):
    with pytest.raises(ConfigError, match=f"asked for the method '{name}'.* The nearest is '{near}'"):
        get(name)


def test_controls_and_what_draws_at_random_are_marked():
    marked = {name: get(name) for name in names()}
    assert {name for name, method in marked.items() if method.control} == {
        "greedy",
        "last",
        "uniform",
        "random",
        "scratch",
    }
    assert {name for name, method in marked.items() if method.draws} == {"random", "scratch"}


@pytest.mark.parametrize(
    ("settings", "preset", "expected"),
    [
        (None, None, Settings()),
        (None, "paper", Settings(steps=9, inner=Inner(size=8))),
        ({}, None, Settings()),
        ({"steps": 2}, "paper", Settings(steps=2, inner=Inner(size=8))),
        ({"inner": {"kind": "other"}}, "paper", Settings(steps=9, inner=Inner(size=8, kind="other"))),
        ({"inner": Inner(size=1)}, "paper", Settings(steps=9, inner=Inner(size=1))),
        ({"parts": [1, 2]}, None, Settings(parts=(1, 2))),
        (Settings(steps=1), None, Settings(steps=1)),
    ],
)
def test_settings_are_those_of_the_preset_but_for_what_is_given(settings, preset, expected):
    assert settings_for(TOY, settings, preset) == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"step": 1}, "the setting 'step' of toy: there is none. The nearest is 'steps'"),
        (
            {"inner": {"sise": 1}},
            r"the setting 'inner.sise' of toy: there is none. The nearest is 'inner.size'",
        ),
        ({"steps": "many"}, "settings of toy that do not work: steps: input should be a valid integer"),
        ({"steps": "many", "inner": {"size": None}}, "steps: .*; inner.size: input should be"),
        ({"inner": 3}, "inner: input should be"),
        (5, "settings of toy by a int: a mapping of names to values or an instance of Settings works"),
        ("steps", "settings of toy by a str"),
    ],
)
def test_settings_that_do_not_work_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        settings_for(TOY, settings)


def test_an_unknown_preset_is_refused():
    with pytest.raises(
        ConfigError, match="the preset 'papr' of toy: there are default, paper. The nearest is 'paper'"
    ):
        settings_for(TOY, None, "papr")


def test_a_preset_beside_an_instance_is_refused():
    with pytest.raises(ConfigError, match="the preset 'paper' of toy and for settings of its own"):
        settings_for(TOY, Settings(), "paper")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"partition": "rows"}, "partition: input should be 'matrix' or 'row_sums'"),
        ({"segments": "elbow"}, "segments: "),
        (
            {"similarity": {"estimator": "raw"}},
            "similarity.estimator: input should be 'unbiased' or 'biased'",
        ),
        ({"segments": 0}, "asked for segments=0: numbers from 1 upwards work"),
        ({"longest_run": 0}, "longest_run=0: numbers from 1 upwards work"),
        ({"exchanges": -1}, "exchanges=-1: numbers from 0 upwards work"),
        ({"segments": 3, "counts": [1, 2]}, r"3 segments with counts=\(1, 2\): give one count a segment"),
        (SGLPSettings(selection="all"), "selection: input should be 'runs' or 'per_segment'"),
    ],
)
def test_settings_of_sglp_that_do_not_work_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        settings_for(METHOD, settings)


def test_settings_of_sglp_come_through_unchanged():
    assert settings_for(METHOD, PAPER) == PAPER
    assert settings_for(METHOD, {"segments": 3, "exchanges": 0}) == SGLPSettings(segments=3, exchanges=0)


def test_methods_are_public():
    assert methods.__all__ == ["Method", "Request", "get", "names", "settings_for"]
