import re

import pytest

from shoal.data.settings import DataSettings
from shoal.errors import ConfigError


@pytest.mark.parametrize("name", ["batch_size", "num_samples", "seq_len", "size"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_counts_must_be_whole_numbers_of_at_least_one(name, value):
    with pytest.raises(ConfigError, match=re.escape(f"{name}={value}, which must be a whole number")):
        DataSettings(**{name: value})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crop": 0.5}, "goes with a size"),
        ({"crop": 1.5, "size": 8}, "is at most 1"),
        ({"channels": 2}, "1 .grey. or 3 .colour."),
        ({"mean": (0.5,)}, "go together"),
        ({"mean": (0.5,), "std": (0.5, 0.5)}, "one number a channel each"),
        ({"mean": (0.5,), "std": (0.0,)}, "must lie above 0"),
    ],
)
def test_impossible_pixels_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        DataSettings(**given)


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError, match=r"batch_size=0.*; channels=2"):
        DataSettings(batch_size=0, channels=2)


def test_an_unknown_setting_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="'batchsize': the settings are .* the nearest is 'batch_size'"):
        DataSettings.of({"batchsize": 3})


def test_known_settings_are_taken():
    assert DataSettings.of({"seed": 3, "size": 8}) == DataSettings(seed=3, size=8)


def test_a_setting_that_means_nothing_is_refused():
    with pytest.raises(ConfigError, match="seq_len=7 with the images"):
        DataSettings(seq_len=7).refuse_text_settings("the images")
    with pytest.raises(ConfigError, match="size=7, channels=3 with the text"):
        DataSettings(size=7, channels=3).refuse_image_settings("the text")


def test_settings_that_were_not_given_are_not_refused():
    DataSettings(batch_size=3, num_samples=3, seed=1).refuse_image_settings("the text")
