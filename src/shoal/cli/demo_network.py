"""The network of the demo: a residual CNN for 8 × 8 grey digits, after He et al., 2015.

Shapes: B = batch, C = channels, H W = height and width.

Reference: He et al., 2015, "Deep Residual Learning for Image Recognition",
https://arxiv.org/abs/1512.03385, section 4.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DigitsResNet", "digits_resnet"]

_WIDTHS = (16, 32)
_DEPTH = 7


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut around them, `(B, C, H, W)` to the same or half of it."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        changes = stride != 1 or width != width_in
        self.shortcut = nn.Conv2d(width_in, width, 1, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the shortcut and what the convolutions add, rectified."""
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(residual + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Two stages of residual blocks, at 8 × 8 and at 4 × 4 pixels; the last step is linear."""

    def __init__(self, depth: int = _DEPTH) -> None:
        super().__init__()
        small, large = _WIDTHS
        self.stem = nn.Sequential(
            nn.Conv2d(1, small, 3, padding=1, bias=False), nn.BatchNorm2d(small), nn.ReLU()
        )
        self.stage1 = nn.Sequential(*(Block(small, small, 1) for _ in range(depth)))
        self.stage2 = nn.Sequential(
            Block(small, large, 2), *(Block(large, large, 1) for _ in range(depth - 1))
        )
        self.classifier = nn.Linear(large, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of the ten digits, `(B, 10)`, for images `(B, 1, 8, 8)`."""
        features = self.stage2(self.stage1(self.stem(images)))
        return self.classifier(features.mean(dim=(2, 3)))


def digits_resnet() -> DigitsResNet:
    """Return the network, untrained: 14 residual blocks.

    Example:
        >>> digits_resnet()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return DigitsResNet()
