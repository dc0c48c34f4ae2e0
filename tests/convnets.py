"""Networks of convolutions with the structure of published ones, small or of full size, untrained."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "FAMILIES",
    "DiffusersBlock",
    "DiffusionUNet",
    "bottleneck_resnet",
    "mobilenet_v2",
    "resnet",
    "settled",
    "vgg",
]


def _conv_norm(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(after)]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, or a bottleneck of three; one ReLU module is used several times."""

    def __init__(self, before: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        after = 4 * width if bottleneck else width
        self.bottleneck = bottleneck
        self.conv1, self.bn1 = _conv_norm(before, width, 1 if bottleneck else 3, 1 if bottleneck else stride)
        self.conv2, self.bn2 = _conv_norm(width, width, 3, stride if bottleneck else 1)
        if bottleneck:
            self.conv3, self.bn3 = _conv_norm(width, after, 1)
        self.relu = nn.ReLU(inplace=True)
        changes = stride > 1 or before != after
        self.downsample = nn.Sequential(*_conv_norm(before, after, 1, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(self.relu(out)))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(
        self, depths: tuple[int, ...], widths: tuple[int, ...], *, bottleneck: bool, classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before, stages = widths[0], []
        for number, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if number and not block else 1
                blocks.append(ResidualBlock(before, width, stride, bottleneck=bottleneck))
                before = 4 * width if bottleneck else width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.stages(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def resnet(depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 10) -> nn.Module:
    """Return a ResNet of basic blocks; ResNet-34 by default."""
    return ResNet(depths, tuple(width * 2**n for n in range(len(depths))), bottleneck=False, classes=classes)


def bottleneck_resnet(
    depths: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, classes: int = 10
) -> nn.Module:
    """Return a ResNet of bottlenecks, the stride in the 3×3 convolution; ResNet-50 by default."""
    return ResNet(depths, tuple(width * 2**n for n in range(len(depths))), bottleneck=True, classes=classes)


class InvertedResidual(nn.Module):
    def __init__(self, before: int, after: int, stride: int, expand: int) -> None:
        super().__init__()
        width = before * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [*_conv_norm(before, width, 1), nn.ReLU6(inplace=True)]
        layers += [*_conv_norm(width, width, 3, stride, groups=width), nn.ReLU6(inplace=True)]
        layers += _conv_norm(width, after, 1)
        self.conv = nn.Sequential(*layers)
        self.use_res_connect = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(classes: int = 1000, scale: float = 1.0, last: int = 1280) -> nn.Module:
    """Return MobileNetV2: expansion, channels, repeats, stride of each stage as published."""
    before = max(1, round(32 * scale))
    layers: list[nn.Module] = [nn.Sequential(*_conv_norm(3, before, 3, 2), nn.ReLU6(inplace=True))]
    for expand, channels, repeats, stride in MOBILENET_V2:
        after = max(1, round(channels * scale))
        for number in range(repeats):
            layers.append(InvertedResidual(before, after, stride if number == 0 else 1, expand))
            before = after
    layers.append(nn.Sequential(*_conv_norm(before, last, 1), nn.ReLU6(inplace=True)))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(last, classes)]
    return nn.Sequential(nn.Sequential(*layers), *head)


def vgg(widths: tuple[tuple[int, ...], ...] = ((8, 8), (16, 16), (24, 24)), classes: int = 10) -> nn.Module:
    """Return a plain network: convolutions with batch norms, max pooling between the stages."""
    before, layers = 3, []
    for stage in widths:
        for after in stage:
            layers += [*_conv_norm(before, after, 3), nn.ReLU(inplace=True)]
            before = after
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32 if channels % 32 == 0 else 8, channels, eps=1e-6)


class TimedBlock(nn.Module):
    """A block of a diffusion U-Net: a bias from the time step comes between its two convolutions."""

    def __init__(self, before: int, after: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(before), nn.Conv2d(before, after, 3, padding=1)
        self.temb_proj = nn.Linear(time, after)
        self.norm2, self.dropout = _norm(after), nn.Dropout(0.1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(before, after, 1) if before != after else None

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(_swish(self.norm1(x)))
        h = h + self.temb_proj(_swish(temb))[:, :, None, None]
        h = self.conv2(self.dropout(_swish(self.norm2(h))))
        if self.nin_shortcut is not None:
            x = self.nin_shortcut(x)
        return x + h


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        y = self.proj(F.scaled_dot_product_attention(q, k, v))
        return x + y.transpose(1, 2).reshape(n, c, h, w)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1), mode="constant", value=0))


class DiffusionUNet(nn.Module):
    """The U-Net of Ho et al., 2020, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239.

    Takes images `(B, C, H, W)` and time steps `(B,)`.
    """

    def __init__(
        self,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: int = 16,
        size: int = 32,
        images: int = 3,
    ) -> None:
        super().__init__()
        self.channels, self.size, time = channels, size, 4 * channels
        self.temb = nn.ModuleList([nn.Linear(channels, time), nn.Linear(time, time)])
        self.conv_in = nn.Conv2d(images, channels, 3, padding=1)
        skips, now = [channels], channels
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            stage = nn.Module()
            stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks):
                stage.block.append(TimedBlock(now, channels * multiplier, time))
                now = channels * multiplier
                if size == attention:
                    stage.attn.append(Attention(now))
                skips.append(now)
            if level < len(multipliers) - 1:
                stage.downsample = Downsample(now)
                skips.append(now)
                size //= 2
            self.down.append(stage)
        self.mid_block1, self.mid_attn = TimedBlock(now, now, time), Attention(now)
        self.mid_block2 = TimedBlock(now, now, time)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            stage = nn.Module()
            stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks + 1):
                stage.block.append(TimedBlock(now + skips.pop(), channels * multiplier, time))
                now = channels * multiplier
                if size == attention:
                    stage.attn.append(Attention(now))
            if level:
                stage.upsample = Upsample(now)
                size *= 2
            self.up.append(stage)
        self.norm_out, self.conv_out = _norm(now), nn.Conv2d(now, images, 3, padding=1)

    def _time(self, steps: Tensor) -> Tensor:
        assert len(steps.shape) == 1
        half = self.channels // 2
        rates = torch.exp(torch.arange(half, device=steps.device) * -(math.log(10000) / (half - 1)))
        angles = steps.float()[:, None] * rates[None]
        temb = torch.cat([angles.sin(), angles.cos()], dim=1).to(self.conv_in.weight)
        return self.temb[1](F.silu(self.temb[0](temb)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert x.shape[2] == x.shape[3] == self.size
        temb = self._time(t)
        hidden = [self.conv_in(x)]
        for stage in self.down:
            for number, block in enumerate(stage.block):
                h = block(hidden[-1], temb)
                if len(stage.attn):
                    h = stage.attn[number](h)
                hidden.append(h)
            if hasattr(stage, "downsample"):
                hidden.append(stage.downsample(hidden[-1]))
        h = self.mid_block2(self.mid_attn(self.mid_block1(hidden[-1], temb)), temb)
        for stage in self.up:
            for number, block in enumerate(stage.block):
                h = block(torch.cat([h, hidden.pop()], dim=1), temb)
                if len(stage.attn):
                    h = stage.attn[number](h)
            if hasattr(stage, "upsample"):
                h = stage.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


def settled(model: nn.Module) -> nn.Module:
    """Give batch norms statistics of their own, as training does; in evaluation mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


class PreActivated(nn.Module):
    """A block of He et al., 2016, "Identity Mappings in Deep Residual Networks", arXiv 1603.05027."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.bn1(x)))
        return x + self.conv2(self.bn2(h).relu_())


class AveragedShortcut(nn.Module):
    """The stride of the shortcut in an average, He et al., 2019, arXiv 1812.01187 (ResNet-D)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_conv_norm(before, after, 1),
            nn.ReLU(),
            *_conv_norm(after, after, 3, 2),
            nn.ReLU(),
            *_conv_norm(after, after, 1),
        )
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.down = nn.Sequential(pool, *_conv_norm(before, after, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.main(x) + self.down(x))


class Reparametrisable(nn.Module):
    """Parallel branches, Ding et al., 2021, "RepVGG", arXiv 2101.03697."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*_conv_norm(width, width, 3))
        self.pointwise = nn.Sequential(*_conv_norm(width, width, 1))
        self.identity = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(sum(branch(x) for branch in (self.pointwise, self.dense, self.identity)))


class DenseBlock(nn.Module):
    """Each layer takes all maps before it, Huang et al., 2017, arXiv 1608.06993 (DenseNet)."""

    def __init__(self, before: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(before + number * growth),
                nn.ReLU(),
                nn.Conv2d(before + number * growth, growth, 3, padding=1),
            )
            for number in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return torch.cat(maps, 1)


class Excited(nn.Module):
    """Channels scaled by what the whole map holds, Hu et al., 2018, arXiv 1709.01507."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.reduce, self.expand = nn.Conv2d(width, 2, 1), nn.Conv2d(2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x))
        scale = self.expand(F.relu(self.reduce(h.mean((2, 3), keepdim=True)))).sigmoid()
        return x + self.conv2(h * scale)


class NextBlock(nn.Module):
    """Norm and linear layers on channels that come last, Liu et al., 2022, arXiv 2201.03545 (ConvNeXt)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.permute(0, 3, 1, 2)


class Shuffled(nn.Module):
    """Half of the channels pass by, then all are shuffled, Ma et al., 2018, arXiv 1807.11164."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            *_conv_norm(half, half, 1),
            nn.ReLU(),
            *_conv_norm(half, half, 3, 1, half),
            *_conv_norm(half, half, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        x = torch.cat([first, F.relu(self.branch(second))], dim=1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Joined(nn.Module):
    """Branches of unlike depth side by side, Szegedy et al., 2015, arXiv 1409.4842 (Inception)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.short = nn.Conv2d(width, 4, 1)
        self.long = nn.Sequential(nn.Conv2d(width, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))
        self.last = nn.Conv2d(8, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.short(x), self.long(x)], 1))


class DiffusersBlock(nn.Module):
    """Looks like a block of diffusers' U-Nets: norms before, a time bias between, a scaled sum at the end."""

    def __init__(self, before: int, after: int, time: int = 8) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, before), nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, after)
        self.norm2, self.dropout = nn.GroupNorm(4, after), nn.Dropout(0.1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.nonlinearity = nn.SiLU()
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else None
        self.output_scale_factor = 1.0

    def forward(self, input_tensor: Tensor, temb: Tensor | None = None, *args: object) -> Tensor:
        hidden_states = self.nonlinearity(self.norm1(input_tensor))
        if hidden_states.shape[0] >= 64:
            input_tensor = input_tensor.contiguous()
            hidden_states = hidden_states.contiguous()
        hidden_states = self.conv1(hidden_states)
        if temb is not None:
            hidden_states = hidden_states + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
        hidden_states = self.dropout(self.nonlinearity(self.norm2(hidden_states)))
        hidden_states = self.conv2(hidden_states)
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return (input_tensor + hidden_states) / self.output_scale_factor


# Takes `(1, 3, 16, 16)`; published structures in small.
FAMILIES = {
    "resnet": lambda: resnet((2, 2), width=8),
    "bottlenecks": lambda: bottleneck_resnet((2, 1), width=4),
    "mobilenet": lambda: mobilenet_v2(classes=10, scale=0.25, last=32),
    "vgg": vgg,
    "pre-activated": lambda: _around(PreActivated(8), PreActivated(8)),
    "averaged shortcut": lambda: _around(AveragedShortcut(8, 8)),
    "reparametrisable": lambda: _around(Reparametrisable(8), Reparametrisable(8)),
    "dense": lambda: _around(DenseBlock(8, 4, 3), after=20),
    "excited": lambda: _around(Excited(8)),
    "next": lambda: _around(NextBlock(8)),
    "shuffled": lambda: _around(Shuffled(8), Shuffled(8)),
    "joined": lambda: _around(Joined(8)),
    "grouped": lambda: _around(
        nn.Sequential(*_conv_norm(8, 8, 3, groups=2), nn.ReLU(), *_conv_norm(8, 8, 1))
    ),
    "diffusers": lambda: _around(DiffusersBlock(8, 16), after=16),
}


def _around(*blocks: nn.Module, after: int = 8) -> nn.Module:
    stem = [*_conv_norm(3, 8, 3), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.Conv2d(after, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
