import pytest

from shoal.methods import settings_for
from shoal.methods.greedy import METHOD, GreedySettings, choose
from shoal.methods.sleb import SLEBSettings
from shoal.methods.sleb import choose as sleb


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_each_time_the_unit_of_least_loss_goes_of_all_that_are_left(ask_images, count):
    request = ask_images(f"units={9 - count}")
    plan = choose(request, GreedySettings())
    losses, removed = ask_images().losses, ()
    for _ in range(count):
        rest = [(*removed, index) for index in request.chain.removable if index not in removed]
        removed = rest[losses.of(rest).index(min(losses.of(rest)))]
    assert plan.predicted["order"] == list(removed)
    assert plan.predicted["measured"] == sum(range(7, 7 - count, -1))
    if count:
        assert plan.predicted["loss"] == losses(removed)


def test_it_is_sleb_with_nothing_protected_and_nothing_guessed(ask_text):
    plan = choose(ask_text("units=2"), GreedySettings())
    other = sleb(ask_text("units=2"), SLEBSettings(lazy=None))
    assert (plan.removed, plan.predicted) == (other.removed, other.predicted)


def test_it_is_a_control_without_settings():
    assert METHOD.control
    assert not METHOD.draws
    assert settings_for(METHOD, {}, "paper") == GreedySettings()
