import pytest

from shoal.errors import ConfigError
from shoal.training.concurrent.settings import ConcurrentSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0}, "start=0: a probability between 0 and 1 works"),
        ({"start": 1.0}, "start=1.0"),
        ({"start": float("nan")}, "start=nan"),
        ({"estimator": "guess"}, "estimator='guess': flip and slope work"),
        ({"probes": 0}, "probes=0: 1 or more works"),
        ({"every": 0}, "every=0: 1 or more works"),
        ({"memory": 1.0}, "memory=1.0: a weight between 0 and 1 works"),
        ({"memory": -0.1}, "memory=-0.1"),
        ({"warmup": -0.1}, "warmup=-0.1 and window=0.3: shares with 0 <= warmup < window <= 1 work"),
        ({"warmup": 0.5}, "warmup=0.5 and window=0.3"),
        ({"window": 1.5}, "window=1.5"),
        ({"haste": 0}, "haste=0: a number above 0 works"),
        ({"haste": float("nan")}, "haste=nan"),
        ({"condition": "always"}, "condition='always': measured and attracted work"),
        ({"tolerance": -0.1}, "tolerance=-0.1 and floor=0.1: 0 <= tolerance < floor < 1 works"),
        ({"tolerance": 0.1}, "tolerance=0.1 and floor=0.1"),
        ({"floor": 1.0}, "floor=1.0"),
        ({"confidence": -1}, "confidence=-1: 0 or more works"),
        ({"revisit": 1.1}, "revisit=1.1: a share from 0 to 1 works"),
    ],
)
def test_what_cannot_work_is_refused(settings, message):
    with pytest.raises(ConfigError, match=f"asked to train gates with .*{message}"):
        ConcurrentSettings(**settings)


def test_all_faults_are_told_at_once():
    with pytest.raises(ConfigError, match=r"start=2: .*; probes=0: .*; revisit=-1"):
        ConcurrentSettings(start=2, probes=0, revisit=-1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warmup": 0.0, "window": 1.0},
        {"memory": 0.01, "confidence": 0.0},
        {"tolerance": 0.0, "floor": 0.5, "revisit": 0.0},
        {"revisit": 1.0, "estimator": "slope", "condition": "attracted"},
    ],
)
def test_the_edges_work(settings):
    assert ConcurrentSettings(**settings) == ConcurrentSettings(**settings)
