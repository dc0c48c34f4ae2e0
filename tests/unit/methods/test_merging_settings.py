import pytest

from shoal.errors import ConfigError
from shoal.importance import MergeLossSettings
from shoal.methods import get, settings_for
from shoal.methods.merging_settings import MergeSettings

METHODS = ("layermerge", "layer_only", "depth_merge")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tolerance": -1.0}, "tolerance=-1"),
        ({"tolerance": float("nan")}, "tolerance=nan: 0 or more"),
        ({"quantum": 0.0}, "quantum=0.0: seconds above 0"),
        ({"quantum": -1e-4}, "quantum=-0.0001"),
        ({"objective": "published"}, "needs every entry measured"),
        ({"importance": {"fresh_single": True}}, "fresh_single=true with objective=loss"),
        ({"rounding": "floor"}, "rounding=floor without a quantum"),
        ({"rounding": "nearest"}, "do not work: rounding"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_work_or_would_be_ignored_is_refused(method, wrong, told):
    with pytest.raises(ConfigError, match=told):
        settings_for(get(method), wrong)


@pytest.mark.parametrize(
    "given",
    [
        {"tolerance": 0.0},
        {"quantum": 1e-4, "rounding": "floor"},
        {"quantum": 1e-4, "rounding": "ceil"},
        {"objective": "published", "measure": "all"},
        {
            "objective": "published",
            "measure": "all",
            "importance": MergeLossSettings(fresh_single=True),
        },
    ],
)
def test_what_goes_together_is_taken(given):
    made = MergeSettings(**given)
    assert {name: getattr(made, name) for name in given} == given


def test_whole_plans_are_tuned_for_no_fewer_than_no_steps():
    with pytest.raises(ConfigError, match="whole_steps=-1: numbers from 0"):
        settings_for(get("layermerge"), {"whole_steps": -1})
    assert settings_for(get("layermerge"), {"whole_steps": 0}).whole_steps == 0
