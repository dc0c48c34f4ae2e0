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
        ({"questions": 0}, "questions=0: 1 or more works"),
        ({"memory": 1.0}, "memory=1.0: a weight between 0 and 1 works"),
        ({"memory": -0.1}, "memory=-0.1"),
        ({"warmup": -0.1}, "warmup=-0.1 and window=0.5: shares with 0 <= warmup < window <= 1 work"),
        ({"warmup": 0.5}, "warmup=0.5 and window=0.5"),
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


@pytest.mark.parametrize(
    ("units", "span"), [(1, 1), (1, 10**6), (4, 600), (14, 562), (27, 10**5), (100, 10), (100, 30_000)]
)
def test_a_unit_is_asked_about_as_often_as_is_set_however_long_the_run(units, span):
    probes, every = ConcurrentSettings().pace(units, units, span)
    asked = probes * (span // every) / units
    assert 1 <= probes <= 2
    assert asked <= 100 * 2 or probes == 1
    assert asked >= 100 or probes == 2 or every > 1
    if every > 1:
        assert probes == 1
        assert asked >= 99


def test_fewer_units_are_asked_a_step_when_fewer_are_left():
    paces = [ConcurrentSettings().pace(24, left, 900) for left in (24, 13, 9, 1)]
    assert paces == [(2, 1), (2, 1), (1, 1), (1, 1)]


def test_probes_and_every_overrule_the_number_of_questions():
    assert ConcurrentSettings(probes=2).pace(8, 8, 10**6) == (2, 1)
    assert ConcurrentSettings(every=3).pace(8, 8, 900) == (2, 3)
    assert ConcurrentSettings(probes=5, every=7).pace(8, 8, 1) == (5, 7)
