import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from networks import NETWORKS, Attention, PreActivation, Residual, feedforward, images, tokens
from shoal.architectures.selection import alike, select
from shoal.architectures.tracing import trace


def chosen(model: nn.Module, example: object) -> list[str]:
    names = {module: name for name, module in model.named_modules()}
    return ["+".join(names[m] for m in found.modules) for found in select(model, trace(model, example))]


def test_the_outermost_repeated_block_is_the_unit_and_not_its_parts():
    model, x = NETWORKS["pairs"]()
    assert chosen(model, x) == ["1", "2", "3"]


def test_a_stage_of_blocks_is_no_unit():
    blocks = [nn.Sequential(*(Residual(feedforward(16)) for _ in range(2))) for _ in range(2)]
    model = nn.Sequential(nn.Linear(16, 16), *blocks)
    assert chosen(model, tokens()) == ["1.0", "1.1", "2.0", "2.1"]


def test_stages_may_be_of_one_block():
    blocks = [nn.Sequential(Residual(feedforward(16))) for _ in range(3)]
    assert len(chosen(nn.Sequential(nn.Linear(16, 16), *blocks), tokens())) == 3


def test_the_network_s_own_inner_network_is_no_unit():
    inner = nn.Sequential(*(Residual(feedforward(16)) for _ in range(3)))
    model = nn.Sequential(nn.Sequential(inner), nn.Linear(16, 4))
    assert chosen(model, tokens()) == ["0.0.0", "0.0.1", "0.0.2"]


def test_a_lone_block_with_most_of_the_weights_is_the_network_itself():
    model = nn.Sequential(nn.Linear(4, 16), Residual(feedforward(16)), nn.Linear(16, 4))
    assert "1" not in chosen(model, tokens(width=4))


def test_modules_of_the_same_make_that_change_the_shape_belong_to_the_chain():
    model, x = NETWORKS["inverted"]()
    assert chosen(model, x) == [f"features.{index}" for index in range(1, 7)]


def test_blocks_of_one_class_are_of_one_make_whatever_they_hold():
    model, x = NETWORKS["inverted"]()
    # The first block of MobileNet has no expansion: fewer entries.
    model.features[2].conv[1] = nn.Conv2d(16, 16, 3, 2, 1)
    assert chosen(model, x) == [f"features.{index}" for index in range(1, 7)]


def test_a_gate_inside_a_block_that_changes_the_shape_is_no_unit():
    model, x = NETWORKS["gated"]()
    assert chosen(model, x) == [f"features.{index}" for index in range(1, 7)]


def test_blocks_with_weight_norms_are_alike():
    def block() -> nn.Module:
        return nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU())

    assert alike(block(), block())
    assert not alike(block(), nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU()))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (nn.Linear(2, 2), nn.Linear(3, 5), True),
        (nn.Linear(2, 2), nn.Conv1d(2, 2, 1), False),
        (Residual(nn.Linear(2, 2)), Residual(nn.Conv1d(2, 2, 1)), False),
        (Residual(feedforward(4)), Residual(feedforward(8)), True),
        (Residual(nn.ReLU()), Residual(nn.Linear(2, 2)), True),
    ],
)
def test_modules_are_alike_in_class_and_weighted_children(first, second, expected):
    assert alike(first, second) is expected
    assert alike(second, first) is expected


def test_branches_are_taken_where_the_network_draws_the_path_itself():
    model, x = NETWORKS["branches"]()
    assert chosen(model, x) == [f"layers.{layer}.{part}" for layer in range(3) for part in range(2)]
    assert all(found.zeros for found in select(model, trace(model, x)))


def test_an_embedding_to_which_positions_are_added_is_no_branch():
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(16, 16)
            self.positions = nn.Parameter(torch.randn(1, 5, 16))
            self.layers = nn.ModuleList(Attention(16) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.embed(x) + self.positions
            for layer in self.layers:
                x = x + layer(x)
            return x

    assert chosen(Embedded(), tokens()[:1]) == ["layers.0", "layers.1"]


def test_in_a_plain_stack_a_unit_spans_layer_norm_and_activation():
    model, x = NETWORKS["vgg"]()
    found = chosen(model, x)
    assert found[1] == "features.3+features.4+features.5"
    assert found[-3:] == [
        "classifier.0+classifier.1+classifier.2",
        "classifier.3+classifier.4",
        "classifier.5",
    ]


def test_pooling_belongs_to_no_unit():
    model, x = NETWORKS["vgg"]()
    names = "+".join(chosen(model, x)).split("+")
    pools = [name for name, module in model.named_modules() if isinstance(module, nn.MaxPool2d)]
    assert pools == ["features.6", "features.16"]
    assert not set(pools) & set(names)


def test_pooling_that_keeps_the_shape_ends_a_unit():
    pool = nn.MaxPool2d(3, 1, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), pool, nn.ReLU(), nn.Conv2d(3, 3, 1))
    assert chosen(model, images()) == ["0+1", "4"]


def test_modules_without_parameters_and_lone_norms_are_no_units():
    model = nn.Sequential(nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 16), nn.Tanh(), nn.Identity())
    assert chosen(model, tokens()) == ["2+3+4"]


def test_what_a_layer_computes_its_weight_with_is_no_unit():
    layers = [nn.Linear(16, 16) for _ in range(2)]
    for layer in layers:
        parametrizations.weight_norm(layer)
        parametrizations.weight_norm(layer, "bias", dim=None)
    assert chosen(nn.Sequential(*layers), tokens()) == ["0", "1"]


@pytest.mark.parametrize("model", [nn.Sequential(), nn.Sequential(nn.ReLU()), nn.Identity()])
def test_a_network_without_weights_has_no_units(model):
    assert chosen(model, tokens()) == []


def test_a_container_is_the_one_that_a_module_s_first_name_says():
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.stage = nn.Sequential(PreActivation(8), PreActivation(8))
            self.all = nn.ModuleList(self.stage)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stage(self.stem(x))

    model = Aliased()
    assert [found.container for found in select(model, trace(model, images()))] == [model.stage] * 2


def test_a_layer_beside_a_branch_is_no_unit_for_being_a_layer_too():
    class Drawn(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 1)
            self.short = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList((Drawn(3, 3), Drawn(3, 6), Drawn(6, 6)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # The network itself calls what the blocks hold, as one that was traced does.
            for block in self.blocks:
                x = torch.relu(block.short(x) + block.second(torch.relu(block.first(x))))
            return x

    names = chosen(Network(), images())
    assert [name for name in names if not name.endswith("short")] == [f"blocks.{n}.second" for n in range(3)]
