"""Small convolutional networks with all that a merge has to do with: skips, projections, branches that are
joined or added, groups, dilations, strides and uneven zeros."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convnets import DiffusionUNet, bottleneck_resnet, mobilenet_v2, resnet, vgg

__all__ = ["NETWORKS", "Flow", "conv", "settled_", "small"]


def conv(before: int, after: int, kernel: int = 3, **kwargs: int) -> nn.Conv2d:
    """A convolution that keeps the size, unless told otherwise."""
    return nn.Conv2d(before, after, kernel, **{"padding": kernel // 2, **kwargs})


class Flow(nn.Module):
    """Runs a function on modules that it holds."""

    def __init__(self, flow: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.flow(self, *inputs)


def concatenated() -> nn.Module:
    """Two branches that are joined along their channels, and then mixed."""
    return Flow(
        lambda net, x: net.head(
            F.relu(net.mix(torch.cat([net.wide(F.relu(net.near(x))), net.far(x)], dim=1)))
        ),
        near=conv(4, 6, 1),
        wide=nn.Sequential(conv(6, 5, 5), nn.BatchNorm2d(5)),
        far=nn.Sequential(conv(4, 4), nn.BatchNorm2d(4)),
        mix=conv(9, 4),
        head=conv(4, 4),
    )


def pooled() -> nn.Module:
    """Average pooling between convolutions, and on a shortcut."""
    return Flow(
        lambda net, x: net.last(F.relu(net.down(net.smooth(F.relu(net.first(x)))) + net.short(x))),
        first=conv(4, 6),
        smooth=nn.AvgPool2d(3, 1, 1),
        down=conv(6, 8, 3, stride=2),
        short=nn.Sequential(nn.AvgPool2d(1, 2), conv(4, 8, 1)),
        last=conv(8, 8),
    )


class RepBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(conv(width, width, bias=False), nn.BatchNorm2d(width))
        self.point = nn.Sequential(conv(width, width, 1, bias=False), nn.BatchNorm2d(width))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x) + self.point(x) + self.norm(x))


def rep_vgg() -> nn.Module:
    return nn.Sequential(conv(4, 6), *(RepBlock(6) for _ in range(3)), conv(6, 4))


def grouped() -> nn.Module:
    """Groups that differ, dilations, a depthwise pair and a dense convolution of one tap."""
    return nn.Sequential(
        conv(4, 8, groups=2), nn.ReLU(), conv(8, 8, groups=4, dilation=2, padding=2), nn.BatchNorm2d(8),
        nn.ReLU(), conv(8, 8, groups=8), nn.ReLU6(), conv(8, 8, 1), nn.ReLU6(), conv(8, 8, 5, groups=8),
        nn.Hardswish(), conv(8, 4, 2, padding=0),
    )  # fmt: skip


def strided() -> nn.Module:
    """Strides inside, also in a residual block, and zeros of its own before one of them."""
    return Flow(
        lambda net, x: net.last(
            F.relu(net.second(F.relu(net.first(F.pad(x, (0, 1, 1, 2))))) + net.short(F.pad(x, (0, 1, 1, 2))))
        ),
        first=conv(4, 6, 3, stride=2),
        second=nn.Sequential(conv(6, 6, 5), nn.BatchNorm2d(6)),
        short=conv(4, 6, 1, stride=2),
        last=conv(6, 8, 3, stride=3),
    )


def uneven() -> nn.Module:
    """Kernels of even and unequal sizes, with other zeros before than behind."""
    return nn.Sequential(
        nn.Conv2d(4, 4, (2, 3), padding="same"), nn.ReLU(), nn.ConstantPad2d((2, 0, 0, 1), 0.0),
        nn.Conv2d(4, 6, (3, 3), padding=(1, 0)), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 6, (1, 5), padding=(0, 2), stride=(1, 2)), nn.ReLU(), conv(6, 6), nn.ReLU(), conv(6, 4),
    )  # fmt: skip


def signal() -> nn.Module:
    """One spatial axis."""
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 6, 3, padding=1), nn.GELU(),
        nn.Conv1d(6, 6, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(6, 4, 3, stride=2),
    )  # fmt: skip


def volume() -> nn.Module:
    """Three spatial axes."""
    return nn.Sequential(
        nn.Conv3d(4, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv3d(4, 2, 2),
    )  # fmt: skip


def timed() -> nn.Module:
    """What is added between convolutions comes from a vector, once through a linear layer, once split."""

    def flow(net: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        more, less = net.split(t)[:, :, None, None].split([8, 4], dim=1)
        h = net.second(F.silu(net.norm(net.first(x) + net.line(t)[:, :, None, None])))
        h = net.third(F.silu(h + more)) + less
        return net.last(F.relu(h + x))

    return Flow(
        flow,
        first=conv(4, 6),
        line=nn.Linear(3, 6),
        norm=nn.BatchNorm2d(6),
        second=conv(6, 8),
        split=nn.Linear(3, 12),
        third=conv(8, 4),
        last=conv(4, 4),
    )


def _map(*size: int) -> tuple[Tensor, ...]:
    return (torch.randn(2, 4, *size),)


def _image(size: int) -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, size, size),)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "resnet": lambda: (resnet((2, 2), 8), _image(33)),
    "bottleneck": lambda: (bottleneck_resnet((2, 2), 4), _image(34)),
    "mobilenet": lambda: (mobilenet_v2(10, scale=0.25, last=32), _image(65)),
    "vgg": lambda: (vgg(), _image(24)),
    "unet": lambda: (
        DiffusionUNet(channels=8, size=8, attention=4, multipliers=(1, 2)),
        (torch.randn(2, 3, 8, 8), torch.tensor([3, 5])),
    ),
    "concatenated": lambda: (concatenated(), _map(9, 12)),
    "pooled": lambda: (pooled(), _map(11, 8)),
    "rep_vgg": lambda: (rep_vgg(), _map(7, 8)),
    "grouped": lambda: (grouped(), _map(13, 9)),
    "strided": lambda: (strided(), _map(14, 11)),
    "uneven": lambda: (uneven(), _map(9, 11)),
    "signal": lambda: (signal(), _map(21)),
    "volume": lambda: (volume(), _map(5, 6, 4)),
    "timed": lambda: (timed(), (*_map(8, 9), torch.randn(2, 3))),
}


def settled_(net: nn.Module) -> nn.Module:
    """Give batch norms statistics of their own, and put the network in evaluation mode."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


def small(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a network in evaluation mode, its batch norms with statistics of their own, and an example."""
    torch.manual_seed(0)
    net, example = NETWORKS[name]()
    example = tuple(each.to(dtype) if each.is_floating_point() else each for each in example)
    return settled_(net).to(dtype), example
