import pytest

from shoal.errors import BudgetError
from shoal.methods import settings_for
from shoal.methods.uniform import METHOD, UniformSettings, choose


@pytest.mark.parametrize(
    ("count", "expected"), [(0, ()), (1, (4,)), (2, (2, 6)), (4, (1, 3, 5, 7)), (8, tuple(range(8)))]
)
def test_units_go_at_equal_distances(ask_chain, count, expected):
    budget = f"units={8 - count}" if count < 8 else "units=0.01"
    assert choose(ask_chain(budget, params=[10] * 8), UniformSettings()).removed == expected


def test_of_the_units_that_can_go(ask_chain):
    request = ask_chain("units=5", params=[10] * 7, fixed=[0, 3, 6])
    assert choose(request, UniformSettings()).removed == (2, 5)


@pytest.mark.parametrize("budget", ["params=0.5", "macs=0.5"])
def test_as_few_as_meet_the_budget(ask_images, budget):
    request = ask_images(budget)
    plan = choose(request, UniformSettings())
    whole = {"params": request.chain.params, "macs": request.chain.macs}
    quantity = request.budget.quantity
    assert plan.predicted[quantity] <= request.budget.allowance(whole[quantity])
    savings, need = request.savings()
    free = request.chain.removable
    fewer = len(plan.removed) - 1
    fewest = [free[int((at + 0.5) * len(free) / fewer)] for at in range(fewer)]
    assert sum(savings[unit] for unit in fewest) < need


def test_an_impossible_budget_is_refused(ask_images):
    with pytest.raises(BudgetError, match="asked for units=1: .* the least that can be asked for is units=2"):
        choose(ask_images("units=1"), UniformSettings())


def test_it_is_a_control_without_settings():
    assert METHOD.control
    assert not METHOD.draws
    assert settings_for(METHOD, {}, "paper") == UniformSettings()
