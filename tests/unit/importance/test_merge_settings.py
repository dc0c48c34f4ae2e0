from dataclasses import asdict

import pytest

from shoal.errors import ConfigError
from shoal.importance.merge_settings import MergeLossSettings


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"form": "guessed"}, "form='guessed': reconstruction and tuned work"),
        ({"samples": 0}, "samples=0: 1 or more works"),
        ({"ridge": 0.0}, "ridge=0.0: a number above 0 works"),
        ({"form": "tuned", "distil": 2.0}, "distil=2.0: a weight from 0 to 1 works"),
        ({"cache_gib": -1.0}, "cache_gib=-1.0: 0 or more works"),
        ({"form": "reconstruction", "from_start": True}, "from_start=True: it needs form='tuned'"),
        ({"form": "reconstruction", "fresh_single": True}, "fresh_single=True: it needs form='tuned'"),
        ({"form": "reconstruction", "distil": 0.5}, "distil=0.5: it needs form='tuned'"),
        ({"form": "reconstruction", "steps": 7}, "steps=7: it needs form='tuned'"),
        ({"ridge": 0.5}, "ridge=0.5: it needs form='reconstruction'"),
        ({"lr": 0.0}, "lr=0.0: a number above 0 works"),
    ],
)
def test_impossible_settings_are_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        MergeLossSettings(**wrong)


def test_published_settings_train_all_of_the_network_from_random_single_layers():
    published = MergeLossSettings.published()
    assert (published.form, published.steps, published.lr) == ("tuned", 196, 0.1)
    assert published.from_start
    assert published.fresh_single
    assert not published.recalibrate


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError, match=r"samples=0: .*; distil=-1\.0: .*; cache_gib=nan: "):
        MergeLossSettings(samples=0, distil=-1.0, cache_gib=float("nan"))


@pytest.mark.parametrize(
    "given",
    [
        {"samples": 1},
        {"cache_gib": 0.0},
        {"distil": 0.0, "steps": 0},
        {"distil": 1.0, "from_start": True, "fresh_single": True},
        {"form": "reconstruction"},
        {"form": "reconstruction", "ridge": 0.5},
    ],
)
def test_values_at_the_edge_work(given):
    made = asdict(MergeLossSettings(**given))
    assert {name: made[name] for name in given} == given


def test_training_is_done_as_the_settings_say():
    settings = MergeLossSettings(
        steps=7, optimizer="adamw", lr=0.5, weight_decay=0.25, warmup=0.75, clip=None, seed=3
    )
    found = asdict(settings.fit_settings())
    assert found["max_steps"] == 7
    for name in ("optimizer", "lr", "weight_decay", "warmup", "clip", "seed"):
        assert found[name] == getattr(settings, name)
