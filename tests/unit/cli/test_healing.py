import pytest

from shoal.cli.healing import HealOptions, check_healing, heal_settings
from shoal.errors import ConfigError
from shoal.training import HealSettings


def test_options_become_settings():
    options = HealOptions(data="digits", heal_epochs=2, heal_lr=0.1, seed=4)
    assert heal_settings(options) == HealSettings(epochs=2, lr=0.1, seed=4)
    assert heal_settings(HealOptions(data="digits")) is None


@pytest.mark.parametrize(
    "fields", [{}, {"eval_data": "digits", "eval_samples": 3}, {"heal_epochs": 0, "heal_lr": 1.0}]
)
def test_options_that_are_used_pass(fields):
    check_healing(HealOptions(data="digits", **fields))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"eval_samples": 3}, "--eval-samples without --eval-data"),
        ({"heal_data": "digits", "heal_distil": 0.5}, "--heal-data, --heal-distil without --heal-epochs"),
        ({"heal_lr": 0.5}, "--heal-lr without --heal-epochs"),
    ],
)
def test_options_that_would_be_ignored_are_refused(fields, match):
    with pytest.raises(ConfigError, match=match):
        check_healing(HealOptions(data="digits", **fields))


def test_data_to_heal_on_is_used_by_a_method_that_trains_while_it_chooses():
    check_healing(HealOptions(data="digits", heal_data="digits"), trains=True)
    with pytest.raises(ConfigError, match="--heal-lr without --heal-epochs"):
        check_healing(HealOptions(data="digits", heal_lr=0.5), trains=True)
