from __future__ import annotations

import json

import pytest

from shoal import Plan
from shoal.budget import Budget
from shoal.surgery.card import model_card


def test_a_card_without_anything_says_what_is_not_known():
    card = model_card({"class": "a.b.Net"})
    assert "# Net, made shallower" in card
    assert "is not known here" in card
    assert "Not measured." in card
    assert "model=build_original_network" in card


def test_a_pretrained_model_is_loaded_by_its_stock_class():
    card = model_card(
        {
            "format": "huggingface",
            "auto_class": "AutoModelForCausalLM",
            "source": {"kind": "huggingface", "reference": "org/name", "hub": True},
        }
    )
    assert "AutoModelForCausalLM.from_pretrained" in card
    assert "base_model: org/name" in card


def test_a_local_folder_is_no_base_model():
    assert "base_model" not in model_card({"source": {"kind": "huggingface", "reference": "/home/me/x"}})


@pytest.mark.parametrize(
    ("budget", "told"),
    [(None, "by sglp "), ("params=0.5", "params = 0.5 of the original"), ("units=3", "units = 3 ")],
)
def test_it_says_who_chose_and_for_which_budget(net_chain, budget, told):
    plan = Plan.removing(
        net_chain, [1], method="sglp", budget=None if budget is None else Budget.parse(budget)
    )
    assert told in model_card({"plan": json.loads(plan.to_json())})


def test_nothing_removed_needs_no_table(net_chain):
    card = model_card({"plan": json.loads(Plan.removing(net_chain, []).to_json())})
    assert "0 of 4 units of Net, chosen by hand" in card
    assert "| unit |" not in card


def test_what_was_not_measured_is_said():
    side = {"params": 10, "macs": 0, "latency": None, "quality": {}}
    card = model_card({"before": side, "after": side | {"quality": {"loss": 1.0}}})
    assert "| latency (s, median) | not measured | not measured | – |" in card
    assert "| loss | not measured | 1 | – |" in card
    assert "| MACs (multiply-accumulates) | 0 | 0 | – |" in card
