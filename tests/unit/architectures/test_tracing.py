import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from networks import NETWORKS, Attention, PreActivation, Residual, feedforward, tokens
from shoal.architectures.tracing import has_parts, matrices, trace


def only(module: nn.Module, example: Tensor):
    """What was seen of one module that a network consists of."""
    return trace(nn.Sequential(module), example)[module]


def test_calls_are_counted_in_the_order_of_first_entry():
    model, x = NETWORKS["shared"]()
    stem, (block, other, _) = model[0], model[1]
    calls = trace(model, x)
    assert calls[stem].order < calls[block].order < calls[other].order
    assert (calls[block].times, calls[other].times) == (2, 1)


def test_shapes_and_structure_are_those_of_the_hidden_state():
    model, inputs = NETWORKS["tuples"]()
    seen = trace(model, inputs)[model.layers[0]]
    assert seen.in_shape == seen.out_shape == (2, 5, 16)
    assert seen.keeps
    assert seen.returned == "tuple"
    assert seen.outputs == {"tuple": ["hidden", {"kwarg": "mask"}, {"value": None}]}


def test_a_change_of_shape_or_dtype_keeps_nothing():
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).half()

    assert not only(nn.Linear(16, 8), tokens()).keeps
    assert not only(Halves(), tokens()).keeps


def test_what_is_never_called_is_not_seen():
    model = nn.Sequential(nn.Linear(16, 16))
    model[0].spare = nn.Linear(16, 16)
    assert model[0].spare not in trace(model, tokens())


def test_compound_modules_without_weights_are_left_out():
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Dropout()), nn.Linear(16, 16))
    calls = trace(model, tokens())
    assert model[0] not in calls
    assert model[0][0] in calls


CARRYING = {
    "residual": lambda: Residual(nn.Linear(16, 16)),
    "two residual parts": lambda: nn.Sequential(Residual(Attention(16)), Residual(feedforward(16))),
    "norm behind": lambda: nn.Sequential(Residual(nn.Linear(16, 16)), nn.LayerNorm(16)),
    "encoder layer": lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
    "weight norm": lambda: Residual(parametrizations.weight_norm(nn.Linear(16, 16))),
    "spectral norm": lambda: Residual(parametrizations.spectral_norm(nn.Linear(16, 16))),
    "orthogonal": lambda: Residual(parametrizations.orthogonal(nn.Linear(16, 16))),
}
PLAIN = {
    "layer": lambda: nn.Linear(16, 16),
    "stack": lambda: feedforward(16),
    "attention": lambda: Attention(16),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 16)), nn.ReLU()),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(16, 16)), nn.ReLU()),
    "orthogonal": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(16, 16)), nn.ReLU()),
    "one orthogonal layer": lambda: parametrizations.orthogonal(nn.Linear(16, 16)),
}


@pytest.mark.parametrize("make", CARRYING.values(), ids=CARRYING)
def test_a_path_without_weights_carries_the_input(make):
    assert only(make(), tokens()).carries


@pytest.mark.parametrize("make", PLAIN.values(), ids=PLAIN)
def test_what_goes_through_weights_alone_is_not_carried(make):
    assert not only(make(), tokens()).carries


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
def test_norms_of_weights_in_the_old_form_are_seen_through_and_left_alone(norm):
    branch = norm(nn.Linear(16, 16))
    example = tokens()
    branch.eval()(example)
    before = branch.weight.clone()
    assert only(Residual(branch), example).carries
    assert not only(nn.Sequential(branch, nn.ReLU()), example).carries
    assert torch.equal(branch.weight, before)


def test_a_zero_input_and_half_precision_are_no_obstacle():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        block = Residual(nn.Linear(16, 16)).to(dtype)
        assert only(block, torch.zeros(2, 5, 16, dtype=dtype)).carries


def test_a_state_that_is_not_a_number_carries_nothing():
    assert not only(nn.Sequential(nn.Linear(16, 16), nn.ReLU()), torch.full((2, 16), torch.nan)).carries


def test_an_input_that_is_overwritten_in_place_is_carried():
    class InPlace(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(self.branch(x))

    model = nn.Sequential(nn.Linear(16, 16), InPlace(nn.Linear(16, 16)))
    assert trace(model, tokens())[model[1]].carries


class Sum(nn.Module):
    """Adds a branch, on some way, to what goes past it."""

    def __init__(self, way) -> None:
        super().__init__()
        self.branch = nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.ones(16))
        self.drop = nn.Dropout(0.1)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x, self.branch(x))


WAYS = {
    "a + b": lambda self, x, out: x + out,
    "b + a": lambda self, x, out: out + x,
    "in place": lambda self, x, out: out.add_(x),
    "torch.add": lambda self, x, out: torch.add(x, out),
    "scaled": lambda self, x, out: x + self.scale * out,
    "a constant": lambda self, x, out: x + 0.5 * out / 2,
    "reshaped": lambda self, x, out: (
        x.transpose(1, 2).flatten(1) + out.transpose(1, 2).contiguous().flatten(1)
    ),
    "dropout": lambda self, x, out: x + nn.functional.dropout(out, 0.1, training=False),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_branch_is_added_however_the_sum_is_written(way):
    model = Sum(way)
    assert trace(model, tokens())[model.branch].added


NO_SUMS = {
    "product": lambda self, x, out: x * out,
    "number": lambda self, x, out: out + 1,
    "broadcast": lambda self, x, out: out + x[:1, :1],
    "concatenation": lambda self, x, out: torch.cat([x, out]),
    "another parameter": lambda self, x, out: out + nn.Parameter(torch.ones_like(out)),
}


@pytest.mark.parametrize("way", NO_SUMS.values(), ids=NO_SUMS)
def test_what_is_not_added_to_a_state_of_its_shape_is_no_branch(way):
    model = Sum(way)
    assert not trace(model, tokens())[model.branch].added


def test_a_branch_inside_a_module_is_not_that_module_s():
    block = PreActivation(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), block)
    calls = trace(model, torch.randn(1, 3, 8, 8))
    assert calls[block.conv2].added
    assert not calls[block].added
    assert not calls[block.conv1].added


@pytest.mark.parametrize(("module", "count"), [(nn.Linear(2, 2), 1), (nn.LayerNorm(2), 0), (nn.ReLU(), 0)])
def test_matrices_are_parameters_of_two_axes_or_more(module, count):
    assert len(matrices(module)) == count


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.ReLU(), False),
        (nn.Sequential(), False),
        (nn.Sequential(nn.Sequential()), True),
        (nn.Sequential(nn.ReLU()), True),
        (torch.compile(nn.ReLU(), backend="eager"), True),
        (nn.Sequential(torch.compile(nn.ReLU(), backend="eager")), True),
    ],
)
def test_modules_inside_count_whatever_their_truth_is(module, expected):
    assert has_parts(module) is expected
