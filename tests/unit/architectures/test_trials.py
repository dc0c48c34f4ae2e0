import pytest
import torch
from torch import nn

from networks import NETWORKS, Residual, tokens
from shoal.architectures import find_units
from shoal.architectures.trials import check_runs
from shoal.errors import BudgetError, DataError


def removals(name):
    model, example = NETWORKS[name]()
    return {unit.removal for unit in find_units(model, example) if unit.removable}


@pytest.mark.parametrize(
    "name", ["residual", "convnext", "vit", "vgg", "mlp", "listed", "tuples", "post_norm"]
)
def test_lists_that_are_gone_through_lose_their_entries(name):
    assert removals(name) == {"delete"}


@pytest.mark.parametrize("name", ["numbered", "side_by_side", "tapped", "between", "attributes", "branches"])
def test_a_pass_through_stands_in_where_an_entry_s_number_or_place_matters(name):
    assert removals(name) == {"bypass"}


def test_a_list_is_left_whole():
    model, example = NETWORKS["numbered"]()
    before = list(model.layers.named_children())
    find_units(model, example)
    assert list(model.layers.named_children()) == before


class Needy(nn.Module):
    """Reads what its second block left behind."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(nn.Linear(16, 16)) for _ in range(3))
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen: list[object] = []
        handle = self.blocks[1].branch.register_forward_hook(lambda *_: seen.append(1))
        for block in self.blocks:
            x = block(x)
        handle.remove()
        if not seen:
            raise self.error("nothing was left behind")
        return x


@pytest.mark.parametrize(
    "error", [RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError]
)
def test_a_unit_without_which_the_network_fails_is_not_removable(error):
    chain = find_units(Needy(error), tokens())
    assert chain.removable == (0, 2)
    assert chain[1].why == "the network does not run without it"


def test_a_failure_of_a_trial_leaves_no_trace():
    model = Needy(RuntimeError)
    find_units(model, tokens())
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.isfinite(model(tokens())).all()


@pytest.mark.parametrize(
    ("example", "written"),
    [
        (torch.zeros(2, 3), r"float32\[2, 3\]"),
        ((torch.zeros(2, 3), 1), r"\(float32\[2, 3\], 1\)"),
        ({"images": torch.zeros(1, dtype=torch.long)}, r"\{images: int64\[1\]\}"),
        (torch.zeros(2, 4, dtype=torch.float64), r"float64\[2, 4\]"),
        (None, "None"),
    ],
)
def test_an_example_that_the_network_cannot_take_is_described(example, written):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(
        DataError, match=f"Sequential on the example {written}: .*weights are float32"
    ) as caught:
        check_runs(model, example)
    assert isinstance(caught.value.__cause__, (RuntimeError, TypeError))


def test_a_network_without_weights_can_fail_too():
    with pytest.raises(DataError, match=r"Flatten on the example 3: it failed with AttributeError"):
        check_runs(nn.Flatten(), 3)


def test_an_error_of_shoal_s_own_stays_as_it_is():
    class Refuses(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise BudgetError("no")

    with pytest.raises(BudgetError, match="no"):
        check_runs(Refuses(), tokens())


def test_a_network_that_runs_passes():
    model, example = NETWORKS["tuples"]()
    check_runs(model, example)
