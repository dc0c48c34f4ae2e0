import numpy as np
import pytest

from shoal.errors import BudgetError, ConfigError, UnitError
from shoal.methods.magnitude import METHOD, MagnitudeSettings, choose

ALL = MagnitudeSettings(protect_first=0)


def magnitudes_by_hand(model, chain):
    """The sum of |w| over every single weight, one after the other."""
    found = []
    for unit in chain:
        total = 0.0
        for path in unit.modules:
            for parameter in model.get_submodule(path).parameters():
                total += sum(abs(number) for number in parameter.detach().flatten().tolist())
        found.append(total)
    return np.array(found)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_units_of_smallest_weights_go(ask_text, count):
    request = ask_text(f"units={5 - count}")
    for index, factor in enumerate((1.0, 0.3, 2.0, 0.1, 0.2)):
        for parameter in request.model.model.layers[index].parameters():
            parameter.data *= factor
    expected = magnitudes_by_hand(request.model, request.chain)
    plan = choose(request, ALL)
    assert plan.removed == ((), (3,), (), (1, 3, 4))[count]
    np.testing.assert_allclose(plan.predicted["scores"], expected[list(plan.removed)], rtol=1e-9)


def test_no_data_is_looked_at(ask_images):
    request = ask_images(batches=None)
    plan = choose(request, ALL)
    expected = magnitudes_by_hand(request.model, request.chain)
    free = list(request.chain.removable)
    assert set(plan.removed) == {free[at] for at in np.argsort(expected[free])[:3]}
    assert request.evidence is None


def test_small_first_units_stay_unless_asked_for(ask_text):
    request = ask_text("units=4")
    for layer, factor in zip(request.model.model.layers, (0.001, 0.01), strict=False):
        for parameter in layer.parameters():
            parameter.data *= factor
    assert choose(request, ALL).removed == (0,)
    (removed,) = choose(request, METHOD.presets["default"]).removed
    assert removed >= 2


def test_the_paper_keeps_the_first_four_and_the_last_two(ask_chain):
    paper = METHOD.presets["paper"]
    assert (paper.protect_first, paper.protect_last) == (4, 2)
    with pytest.raises(UnitError, match="the first 4 and the last 2 of 5 protected"):
        choose(ask_chain(), paper)


def test_what_cannot_be_had_is_refused(ask_text):
    with pytest.raises(BudgetError, match="asked for units=1: with protect_first=2, units=2 remain"):
        choose(ask_text("units=1"), METHOD.presets["default"])
    with pytest.raises(ConfigError, match="protect_first=-1"):
        MagnitudeSettings(protect_first=-1)
