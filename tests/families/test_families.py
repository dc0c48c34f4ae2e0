"""Every causal family of the installed transformers, and encoders: cut exactly, or refused with what works.

The families are read from the package, so that a new one is tried and not skipped.
"""

import re

import pytest

from families.cutting import cuts_of, outcome
from families.special import ROWS, row_of
from families.tiny import PROMPT, causal_config, causal_families, made, networks, prompt_of, second_names
from shoal.architectures import find_units
from shoal.architectures.generation import compare_generation
from shoal.architectures.skeletons import refusals

# Of transformers and what it uses; what shoal itself warns of is tested elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("name", networks())
def test_cuts_are_exact_or_refused_with_the_nearest_that_is(name, tmp_path):
    never, seldom = row_of(name, "running"), row_of(name, "cutting")
    if never:
        with pytest.raises((ImportError, *refusals()), match=never.said):
            find_units(*made(name))
        return
    model, example = made(name)
    chain = find_units(model, example)
    prompt = None if row_of(name, "cache") else prompt_of(name)
    found = [
        outcome(model, example, chain, removed, tmp_path / str(number), prompt=prompt)
        for number, removed in enumerate(cuts_of(chain))
    ]
    dead = [each.refused for each in found if each.refused and not each.nearest]
    assert bool(dead) == bool(seldom), dead
    assert all(re.search(seldom.said, words) for words in dead), dead


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.part == "cache" and row.holds])
def test_what_is_not_compared_with_its_cache_differs_from_the_first(name):
    model, _ = made(name)
    try:
        same, _ = compare_generation(model, PROMPT, tokens=3)
    except (AttributeError, RuntimeError, TypeError):
        same = False
    assert not same


def test_rows_are_of_networks_that_there_are():
    assert {row.name for row in ROWS if row.holds} <= {*networks()}
    assert all(row.why and (row.said or row.part == "cache") for row in ROWS)


def test_a_second_name_is_another_word_for_the_same_network():
    for second, first in second_names().items():
        assert causal_config(second).to_json_string() == causal_config(first).to_json_string()
    assert {*networks(), *second_names()} >= {*causal_families()}


def test_kinds_of_layers_that_a_model_keeps_as_a_set_follow(tmp_path):
    if "gemma4_text" not in causal_families():
        pytest.skip("this version of transformers has no Gemma 4")
    model, example = made("gemma4_text")
    found = outcome(model, example, find_units(model, example), (0, 1, 2, 3, 4, 6), tmp_path, prompt=PROMPT)
    assert not found.refused
