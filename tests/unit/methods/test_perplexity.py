import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from shoal import Plan
from shoal.architectures import bypassed
from shoal.errors import BudgetError, ConfigError, DataError, UnitError
from shoal.journal import Journal
from shoal.methods.perplexity import METHOD, PerplexitySettings, choose

DEFAULT, PAPER = METHOD.presets["default"], METHOD.presets["paper"]
# As in test_taylor.py, by the loss without each unit.
RELEASED = {
    "Llama-2-7B": ([11, 8, 24, 21, 12, 7, 9, 10, 18, 27, 14, 23, 25, 15, 20, 26], (7, 8, 11, 12, 21, 24)),
    "LLaMA-7B": ([24, 26, 25, 10, 27, 13, 22, 14, 9, 29], (10, 13, 24, 25, 26, 27)),
    "Vicuna-7B v1.3": ([25, 27, 10, 24, 11, 20, 8, 29, 6, 5], (10, 11, 20, 24, 25, 27)),
    "Llama-3-8B": ([8, 23, 9, 11, 10, 25, 26, 12, 22, 19], (8, 9, 10, 11, 23, 25)),
}


def loss_of_images(model, batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return cross_entropy(model(x), y).item()


def loss_of_text(model, batches):
    ids = torch.cat([batch["input_ids"] for batch in batches])
    return cross_entropy(model(input_ids=ids).logits[:, :-1].transpose(1, 2), ids[:, 1:]).item()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("kind", "loss"), [("ask_images", loss_of_images), ("ask_text", loss_of_text)])
def test_the_units_without_which_the_loss_is_lowest_go(request, kind, loss, count):
    ask = request.getfixturevalue(kind)
    asked = ask(f"units={len(ask().chain) - count}")
    plan = choose(asked, DEFAULT)

    def without(units):
        with torch.no_grad(), bypassed(asked.model, asked.chain, units):
            return loss(asked.model, asked.batches)

    alone = {index: without([index]) for index in asked.chain.removable}
    assert plan.removed == tuple(sorted(sorted(alone, key=alone.__getitem__)[:count]))
    added = [alone[index] - without([]) for index in plan.removed]
    np.testing.assert_allclose(plan.predicted["scores"], added, atol=1e-5)
    assert plan.predicted["loss"] == pytest.approx(without(plan.removed), abs=1e-5)
    assert plan.predicted["loss_before"] == pytest.approx(without([]), abs=1e-5)
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("model", RELEASED)
def test_the_papers_filter_gives_the_sets_that_were_released(ask_chain, scores_of, model):
    order, expected = RELEASED[model]
    request = ask_chain("units=26", params=[10] * 32, skip_loss=scores_of(order))
    assert choose(request, PAPER).removed == expected


def test_an_interrupted_choice_goes_on_without_measuring_again(tmp_path, ask_text):
    first = choose(ask_text(journal=Journal(tmp_path / "journal.jsonl")), DEFAULT)
    again = ask_text(journal=Journal(tmp_path / "journal.jsonl"))
    assert choose(again, DEFAULT) == first
    assert again.losses.measured == 0


def test_data_without_a_loss_is_refused(ask_images):
    with pytest.raises(DataError, match="no labels and the model is no language model"):
        choose(ask_images(batches=[torch.randn(8, 3, 8, 8)]), DEFAULT)


def test_what_cannot_be_had_is_refused(ask_chain):
    with pytest.raises(BudgetError, match="asked to save 3: what may go saves 2"):
        choose(ask_chain("units=2", skip_loss=[1, 2, np.inf, np.inf, np.inf]), DEFAULT)
    with pytest.raises(UnitError, match="Protect fewer"):
        choose(ask_chain(skip_loss=[1] * 5), PAPER)
    with pytest.raises(ConfigError, match="protect_first=-1"):
        PerplexitySettings(protect_first=-1)


def test_a_budget_that_the_network_meets_measures_nothing(ask_text):
    request = ask_text("units=5")
    assert choose(request, DEFAULT).removed == ()
    assert request.losses.measured == 0
