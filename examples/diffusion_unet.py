"""A small diffusion U-Net for grey images (Ho et al., 2020, https://arxiv.org/abs/2006.11239).

The network says which noise is in an image. Blocks of two convolutions with group norms are told the time
step between the two; the smallest maps have attention; what the way down puts out is concatenated on the
way up. Images are drawn from noise in a few steps (Song et al., 2020, https://arxiv.org/abs/2010.02502).
Use it as a model reference: `examples/diffusion_unet.py:unet`.

Shapes: B = batch, C = channels, H W = height and width (16 × 16 at the input).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["STEPS", "UNet", "draw", "noisy", "unet"]

STEPS = 1000
# The variance that is left of the image after 0 … STEPS - 1 steps of noise.
LEFT = (1 - torch.linspace(1e-4, 0.02, STEPS)).cumprod(0)
GROUPS = 8


class Attention(nn.Module):
    """Every place takes from all places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.looks = nn.Linear(width, 3 * width)
        self.gives = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(x).flatten(2).transpose(1, 2)
        taken = F.scaled_dot_product_attention(*self.looks(places).chunk(3, dim=-1))
        return x + self.gives(taken).transpose(1, 2).unflatten(2, x.shape[2:])


class Block(nn.Module):
    """Two 3 × 3 convolutions with a bias from the time step between them, a shortcut, and attention."""

    def __init__(self, width_in: int, width: int, time: int, *, attends: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.time = nn.Linear(time, width)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)
        self.attention = Attention(width) if attends else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x)))
        out = out + self.time(time)[:, :, None, None]
        out = self.conv2(F.silu(self.norm2(out)))
        return self.attention(out + self.shortcut(x))


class Halve(nn.Module):
    """Makes maps half as large."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(x)


class Double(nn.Module):
    """Makes maps twice as large."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class UNet(nn.Module):
    """Levels of blocks, with maps half as large from one to the next, and the same way back up.

    Args:
        widths: Channels of each level; the last one has attention.
        blocks: Blocks of each level on the way down; there is one more on the way up.
        channels: Channels of the images.
    """

    def __init__(self, widths: Sequence[int], *, blocks: int = 2, channels: int = 1) -> None:
        super().__init__()
        time, deepest = 4 * widths[0], len(widths) - 1
        self.time = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, given = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            if level:
                self.down.append(Halve(now))
                given.append(now)
            for _ in range(blocks):
                self.down.append(Block(now, width, time, attends=level == deepest))
                now = width
                given.append(now)
        self.middle = Block(now, now, time, attends=True)
        for level, width in reversed(list(enumerate(widths))):
            if level < deepest:
                self.up.append(Double(now))
            for _ in range(blocks + 1):
                self.up.append(Block(now + given.pop(), width, time, attends=level == deepest))
                now = width
        self.norm = nn.GroupNorm(GROUPS, now)
        self.last = nn.Conv2d(now, channels, 3, padding=1)

    def _waves(self, t: Tensor) -> Tensor:
        count = self.first.out_channels // 2
        rates = torch.exp(torch.linspace(0, -math.log(10_000), count, device=t.device))
        angles = t[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise `(B, C, H, W)` in images `(B, C, H, W)` at time steps `(B,)`."""
        time = self.time(self._waves(t).to(x))
        x = self.first(x)
        given = [x]
        for part in self.down:
            x = part(x, time)
            given.append(x)
        x = self.middle(x, time)
        for part in self.up:
            if isinstance(part, Block):
                x = torch.cat([x, given.pop()], dim=1)
            x = part(x, time)
        return self.last(F.silu(self.norm(x)))


def unet() -> UNet:
    """Return a U-Net for images of 16 × 16 pixels, with random weights."""
    return UNet((24, 48, 48))


def noisy(images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return the images `(B, C, H, W)` with the noise that they have at time steps `(B,)`."""
    left = LEFT[t][:, None, None, None]
    return left.sqrt() * images + (1 - left).sqrt() * noise


@torch.no_grad()
def draw(model: nn.Module, noise: Tensor, *, steps: int = 50) -> Tensor:
    """Return the images, from -1 to 1, that a network makes of noise `(B, C, H, W)` (DDIM with η = 0)."""
    image = noise
    times = torch.linspace(STEPS - 1, 0, steps).round().long()
    for t in times:
        left = LEFT[t]
        # The noise is that between what there is and the image in it, which may have been clamped.
        x = image if t == times[0] else left.sqrt() * image + (1 - left).sqrt() * noise
        image = ((x - (1 - left).sqrt() * model(x, t.expand(len(x)))) / left.sqrt()).clamp(-1, 1)
        noise = (x - left.sqrt() * image) / (1 - left).sqrt()
    return image
