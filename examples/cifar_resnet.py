"""Residual networks for CIFAR-10 (He et al., 2015, https://arxiv.org/abs/1512.03385, section 4.2).

Shortcuts are of option A: where the shape changes, the input is subsampled and padded with zero
channels, so that no shortcut has weights. Use it as a model reference: `examples/cifar_resnet.py:resnet56`.

Shapes: B = batch, C = channels, H W = height and width (32 × 32 at the input).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CifarResNet", "load_checkpoint", "resnet20", "resnet56"]


class Shortcut(nn.Module):
    """Subsamples by two and pads the channels with zeros on both sides."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut around them."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential() if stride == 1 else Shortcut(width - width_in)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels.

    Args:
        depths: Blocks of each stage; `(9, 9, 9)` is ResNet-56.
        classes: Number of classes.
        channels: Channels of the images.
    """

    def __init__(self, depths: Sequence[int], *, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, depths[0], stride=1)
        self.layer2 = self._stage(16, 32, depths[1], stride=2)
        self.layer3 = self._stage(32, 64, depths[2], stride=2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(width_in: int, width: int, depth: int, *, stride: int) -> nn.Sequential:
        first = BasicBlock(width_in, width, stride)
        return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(depth - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(B, classes)` of images `(B, C, H, W)`."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean(dim=(2, 3)))


def resnet20() -> CifarResNet:
    """Return ResNet-20 with random weights."""
    return CifarResNet((3, 3, 3))


def resnet56() -> CifarResNet:
    """Return ResNet-56 with random weights."""
    return CifarResNet((9, 9, 9))


def load_checkpoint(model: CifarResNet, path: str) -> CifarResNet:
    """Load a `.th` checkpoint `{state_dict: {"module.…": tensor}}` into the model and return it."""
    stored = torch.load(path, weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in stored.items()})
    return model.eval()
