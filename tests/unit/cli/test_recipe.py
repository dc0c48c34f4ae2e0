from dataclasses import dataclass
from pathlib import Path

import pytest

from shoal.cli.recipe import check_value, flattened, read_recipe
from shoal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Options:
    budget: str
    batch_size: int | None = None
    lr: float | None = None
    resume: bool = False
    set: tuple[str, ...] = ()
    config: Path | None = None


def read(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path, Options, "compress")


def test_keys_are_options_as_they_are_typed(tmp_path):
    found = read(tmp_path, "budget: macs=0.6\nbatch-size: 8\nlr: 1e-3\nresume: true\n")
    assert found == {"budget": "macs=0.6", "batch_size": 8, "lr": 1e-3, "resume": True}


def test_settings_may_be_a_mapping_or_a_list(tmp_path):
    assert read(tmp_path, "set: {exchanges: 0, graft: {steps: 2}}")["set"] == ("exchanges=0", "graft.steps=2")
    assert read(tmp_path, "set: [exchanges=0]")["set"] == ("exchanges=0",)


@pytest.mark.parametrize("text", ["", "# nothing\n", "budget:\n"])
def test_an_empty_recipe_gives_nothing(tmp_path, text):
    if text.startswith("budget"):
        with pytest.raises(ConfigError, match="budget: None does not work"):
            read(tmp_path, text)
    else:
        assert read(tmp_path, text) == {}


def test_all_faults_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError, match="recipe.yaml") as caught:
        read(tmp_path, "budgett: macs=0.6\nbatch_size: many\nlr: [1]\n")
    message = str(caught.value)
    assert "budgett: `shoal compress` has no option of that name; the nearest is budget" in message
    assert "batch_size: 'many' does not work" in message
    assert "lr: [1] does not work" in message


def test_a_recipe_does_not_name_another(tmp_path):
    with pytest.raises(ConfigError, match="config: `shoal compress` has no option"):
        read(tmp_path, "config: other.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b\n", "it holds a list"), ("a: [1", "it is not YAML"), ("word", "it holds a str")],
)
def test_what_is_no_mapping_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml", Options, "compress")


def test_values_that_look_like_numbers_may_be_text():
    assert check_value(5, str) == ("5", "")
    assert check_value(True, str)[0] is None


def test_nothing_flattens_to_nothing():
    assert flattened({}) == []
