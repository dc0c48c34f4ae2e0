import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from convnets import settled
from shoal.architectures.plain import conv_axes, has_convolution, has_hooks, is_plain, take_apart_


class NormAct(nn.BatchNorm2d):
    """A norm with its activation, as timm has it."""

    def __init__(self, width: int, act: nn.Module | None = None) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), act or nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class GroupNormAct(nn.GroupNorm):
    def __init__(self, groups: int, width: int) -> None:
        super().__init__(groups, width)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class SyncNormAct(nn.SyncBatchNorm):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class StaticPadding(nn.Conv2d):
    """Pads more behind than before, by a layer of its own, as EfficientNet-Lite does."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__(before, after, kernel, stride)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride)


class SamePadding(nn.Conv2d):
    """Pads by what the size of its input asks for, as TensorFlow does; its child would for even sizes."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__(before, after, kernel, stride)
        self.even = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        total = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in x.shape[2:]]
        x = F.pad(x, [total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class OwnConvolution(nn.Conv2d):
    """Its forward is torch's, what that calls is not."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, 2 * weight, bias)


class Named(nn.Conv2d):
    """A name of its own and nothing else."""


def with_forward(module: nn.Module) -> nn.Module:
    module.forward = type(module).forward.__get__(module)
    return module


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda *_: None)
    return module


PLAIN = [
    nn.Conv1d(2, 2, 3),
    nn.Conv2d(2, 2, 3, padding="same"),
    nn.Conv3d(2, 2, 3),
    Named(2, 2, 3),
    nn.BatchNorm1d(2),
    nn.BatchNorm2d(2, affine=False),
    nn.BatchNorm3d(2),
    nn.SyncBatchNorm(2),
    nn.GroupNorm(1, 2),
    nn.LayerNorm(2),
    nn.InstanceNorm2d(2),
    nn.AvgPool2d(2),
    parametrizations.weight_norm(nn.Conv2d(2, 2, 3)),
]
OTHERS = [
    NormAct(2),
    GroupNormAct(1, 2),
    StaticPadding(2, 2, 3, 2),
    SamePadding(2, 2, 3, 2),
    Standardised(2, 2, 3),
    OwnConvolution(2, 2, 3),
    with_forward(nn.Conv2d(2, 2, 3)),
    hooked(nn.Conv2d(2, 2, 3)),
    nn.ConvTranspose2d(2, 2, 3),
    nn.ReLU(),
    nn.Linear(2, 2),
]


def named(module: object) -> str:
    return type(module).__name__


@pytest.mark.parametrize("module", PLAIN, ids=named)
def test_torch_s_own_layers_are_plain(module):
    assert is_plain(module)


@pytest.mark.parametrize("module", OTHERS, ids=named)
def test_layers_with_code_of_their_own_are_not(module):
    assert not is_plain(module)


@pytest.mark.parametrize(
    ("module", "axes"),
    [
        (nn.Conv1d(1, 1, 1), 1),
        (nn.Conv3d(1, 1, 1), 3),
        (nn.BatchNorm1d(2), 1),
        (nn.BatchNorm3d(2), 3),
        (nn.InstanceNorm1d(2), 1),
        (nn.SyncBatchNorm(2), 2),
        (nn.GroupNorm(1, 2), 2),
    ],
    ids=named,
)
def test_axes_are_counted(module, axes):
    assert conv_axes(module) == axes


def test_transposed_convolutions_are_no_convolutions():
    assert has_convolution(nn.Sequential(nn.Sequential(nn.Conv1d(1, 1, 1))))
    assert not has_convolution(nn.Sequential(nn.ConvTranspose2d(1, 1, 1), nn.Linear(1, 1)))


def test_hooks_are_seen_before_and_behind():
    before = nn.ReLU()
    before.register_forward_pre_hook(lambda *_: None)
    assert has_hooks(before)
    assert has_hooks(hooked(nn.ReLU()))
    assert not has_hooks(nn.ReLU())


@pytest.mark.parametrize(
    ("make", "kinds", "plain"),
    [
        (lambda: NormAct(4), [nn.BatchNorm2d, nn.Identity, nn.ReLU], "1.0"),
        (lambda: NormAct(4, nn.SiLU()), [nn.BatchNorm2d, nn.Identity, nn.SiLU], "1.0"),
        (lambda: GroupNormAct(2, 4), [nn.GroupNorm, nn.SiLU], "1.0"),
        (lambda: SyncNormAct(4), [nn.SyncBatchNorm, nn.ReLU], "1.0"),
        (lambda: StaticPadding(4, 4, 3, 2), [nn.ZeroPad2d, nn.Conv2d], "1.1"),
    ],
    ids=["norm", "silu", "group norm", "synchronised", "padding"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_are_several_are_taken_apart(make, kinds, plain, dtype):
    net = settled(nn.Sequential(nn.Conv2d(4, 4, 1), make())).to(dtype)
    whole, x = net[1], torch.randn(2, 4, 9, 8, dtype=dtype)
    expected, state = net(x), dict(net[1].state_dict(keep_vars=True))
    assert take_apart_(net) == {plain: "1"}
    assert [type(each) for each in net[1]] == kinds
    assert torch.equal(net(x), expected)
    mine = dict(net.get_submodule(plain).state_dict(keep_vars=True))
    assert mine.keys() == state.keys()
    assert all(mine[name] is state[name] for name in state)
    assert is_plain(net.get_submodule(plain))
    assert not is_plain(whole)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SamePadding(4, 4, 3, 2),
        lambda: Standardised(4, 4, 3),
        lambda: OwnConvolution(4, 4, 3),
        lambda: hooked(nn.Conv2d(4, 4, 3)),
        lambda: hooked(NormAct(4)),
        lambda: nn.ConvTranspose2d(4, 4, 3),
        lambda: nn.LayerNorm(9),
        lambda: nn.BatchNorm2d(4, affine=False),
    ],
)
def test_what_no_row_of_plain_layers_does_stays_as_it_is(make):
    net = nn.Sequential(make()).eval()
    before = net[0]
    assert take_apart_(net) == {}
    assert net[0] is before


def test_a_norm_without_weights_is_taken_apart_by_its_statistics():
    class Bare(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    net = settled(nn.Sequential(Bare(4, affine=False)))
    assert take_apart_(net) == {"0.0": "0"}


def test_a_convolution_that_takes_no_such_size_stays_as_it_is():
    class Fixed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(-1, 4, 7, 7))

    assert take_apart_(nn.Sequential(Fixed(4, 4, 3)).eval()) == {}
