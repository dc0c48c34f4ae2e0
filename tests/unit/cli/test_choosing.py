import pytest

from shoal.cli.choosing import MethodOptions, check_untrained, method_settings, trains
from shoal.errors import ConfigError


def test_a_preset_is_changed_by_single_settings():
    found = method_settings(MethodOptions(preset="paper", set=("most_segments=3",)), seed=5)
    assert (found.partition, found.most_segments, found.seed) == ("row_sums", 3, 5)


def test_a_seed_among_the_settings_goes_before_the_general_one():
    assert method_settings(MethodOptions(set=("seed=9",)), seed=5).seed == 9


def test_settings_of_settings_are_reached_by_a_dot():
    assert method_settings(MethodOptions(set=("similarity.minibatch=64",)), seed=0).similarity.minibatch == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (MethodOptions(method="slgp"), "The nearest is 'sglp'"),
        (MethodOptions(preset="papr"), "there are default, paper"),
        (MethodOptions(set=("partition=cube",)), "partition: 'cube' does not work"),
    ],
)
def test_what_there_is_not_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        method_settings(options, seed=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (MethodOptions(), False),
        (MethodOptions(method="cka"), False),
        (MethodOptions(method="cka", preset="paper"), True),
        (MethodOptions(method="cka", set=("heal.epochs=1",)), True),
        (MethodOptions(method="cka", preset="paper", set=("heal=null",)), False),
    ],
)
def test_a_method_trains_where_its_settings_heal(options, expected):
    settings = method_settings(options, seed=0)
    assert trains(settings) is expected
    if not expected:
        check_untrained(options, settings, asked="a plan")


def test_a_plan_of_a_method_that_trains_is_refused():
    options = MethodOptions(method="cka", preset="paper")
    with pytest.raises(ConfigError, match=r"asked for a plan with cka .* `shoal compress` hands back"):
        check_untrained(options, method_settings(options, seed=0), asked="a plan")


def test_a_setting_that_excludes_a_preset_names_both():
    options = MethodOptions(method="layermerge", preset="paper", set=("importance.form=reconstruction",))
    message = (
        "the preset paper of layermerge with --set importance.form=reconstruction: they exclude each other"
    )
    with pytest.raises(ConfigError, match=message):
        method_settings(options, seed=0)


def test_a_setting_that_does_not_work_is_not_blamed_on_the_preset():
    options = MethodOptions(method="layermerge", preset="paper", set=("importance.samples=0",))
    with pytest.raises(ConfigError, match="samples=0: 1 or more works") as caught:
        method_settings(options, seed=0)
    assert "exclude" not in str(caught.value)
