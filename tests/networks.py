"""Tiny networks of every make that units are found in, with an input for each.

`NETWORKS[name]()` returns a network and an example that its forward takes. Import them by name:
`from networks import residual`.

Shapes: B = batch, C = channels, H W = height and width, T = tokens, D = width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cifar_resnet import CifarResNet
from torch import Tensor, nn
from torch.nn.utils import parametrizations

__all__ = ["NETWORKS", "gpt2", "llama", "randomised"]

Made = tuple[nn.Module, Any]


def randomised(model: nn.Module) -> nn.Module:
    """Give the norms weights and statistics of their own, as training does; in evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.is_floating_point() and tensor.dim() == 1:
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor.data += 0.2 * (noise.abs() if "var" in name else noise)
    return model.eval()


def images(size: int = 16, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(2))


def tokens(length: int = 5, width: int = 16) -> Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(2))


class Residual(nn.Module):
    """Draws a path around any branch."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Attention(nn.Module):
    """One head, its norm first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.take = nn.Linear(width, 3 * width)
        self.give = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.take(self.norm(x)).chunk(3, -1)
        return self.give((query @ key.transpose(1, 2)).softmax(-1) @ value)


def feedforward(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
    )


def residual() -> Made:
    """The network of the examples: three stages, two of which begin with a block that halves the size."""
    return randomised(CifarResNet((3, 3, 2))), images()


def short_stages() -> Made:
    """Every stage has one block."""
    return randomised(CifarResNet((1, 1, 1))), images()


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3, 1 × 1, with a convolution on the shortcut where the shape changes."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // 4
        self.conv1, self.bn1 = nn.Conv2d(width_in, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or width_in != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def bottleneck() -> Made:
    """Stem and pooling, two stages of bottlenecks, as ResNet-50 has them."""
    model = nn.Sequential()
    model.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    model.layer1 = nn.Sequential(Bottleneck(8, 16, 1), Bottleneck(16, 16, 1), Bottleneck(16, 16, 1))
    model.layer2 = nn.Sequential(Bottleneck(16, 32, 2), Bottleneck(32, 32, 1))
    model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return randomised(model), images()


class PreActivation(nn.Module):
    """Norm and ReLU before each convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu(self.bn2(self.conv1(self.relu(self.bn1(x))))))


class HeldAsAttributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = PreActivation(8), PreActivation(8)
        self.down = nn.Conv2d(8, 16, 2, 2)
        self.third = PreActivation(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.third(self.down(self.second(self.first(self.stem(x)))))
        return self.head(out.mean((2, 3)))


def attributes() -> Made:
    """Pre-activation blocks held as attributes."""
    return randomised(HeldAsAttributes()), images()


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; a shortcut only where the shape stays."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        inner = 2 * width_in
        self.skips = stride == 1 and width_in == width
        self.conv = nn.Sequential(
            nn.Sequential(nn.Conv2d(width_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
            nn.Sequential(
                nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU6(inplace=True),
            ),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skips else self.conv(x)


def inverted() -> Made:
    """Stem, blocks and head in one Sequential, as MobileNet has them."""
    shapes = [(8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 12, 1), (12, 16, 1), (16, 16, 1)]
    model = nn.Sequential()
    model.features = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()),
        *(InvertedResidual(*shape) for shape in shapes),
        nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()),
    )
    model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    return randomised(model), images()


class ConvNextBlock(nn.Module):
    """Depthwise convolution, norm and MLP over channels, scaled by a parameter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out = self.scale * self.down(nn.functional.gelu(self.up(out)))
        return x + out.permute(0, 3, 1, 2)


class ConvNext(nn.Module):
    """Each stage is a module that holds its way down and its list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        width_in = 3
        for width, depth in ((8, 2), (16, 3)):
            stage = nn.Module()
            stage.down = nn.Conv2d(width_in, width, 2, 2)
            stage.blocks = nn.Sequential(*(ConvNextBlock(width) for _ in range(depth)))
            self.stages.append(stage)
            width_in = width
        self.head = nn.Linear(width_in, 10)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage.blocks(stage.down(x))
        return self.head(x.mean((2, 3)))


class Gate(nn.Module):
    """Squeeze and excitation: scales every channel by a number between 0 and 1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


def gated() -> Made:
    """Inverted residuals with a gate in each."""
    model, x = inverted()
    for block in model.features[1:-1]:
        block.conv.insert(1, Gate(block.conv[0][0].out_channels))
    return randomised(model), x


def convnext() -> Made:
    return randomised(ConvNext()), images()


class VitBlock(nn.Module):
    """Pre-norm attention and MLP, each with a path around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = Attention(width)
        self.mlp = feedforward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Vit(nn.Module):
    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(VitBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def vit() -> Made:
    return randomised(Vit()), images()


def vgg() -> Made:
    """Convolution, norm and ReLU as entries of one list, pooling between them."""
    layers: list[nn.Module] = []
    width_in = 3
    for width in (8, 8, 0, 16, 16, 16, 0):
        if width:
            convolution = nn.Conv2d(width_in, width, 3, padding=1)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            width_in = width
        else:
            layers.append(nn.MaxPool2d(2))
    model = nn.Sequential()
    model.features = nn.Sequential(*layers)
    model.flat = nn.Flatten()
    model.classifier = nn.Sequential(
        nn.Linear(256, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    return randomised(model), images()


def mlp() -> Made:
    """A plain stack of layers and activations."""
    inner = [layer for _ in range(4) for layer in (nn.Linear(16, 16), nn.ReLU())]
    return randomised(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), *inner, nn.Linear(16, 4))), tokens(8)[
        :, :, 0
    ]


class Listed(nn.Module):
    """Goes through its list, whatever it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Between(Listed):
    """Applies a ReLU to what every entry returns: not the first one's input."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return self.head(x)


class Numbered(Listed):
    """Reaches the entries of its list by their numbers."""

    def forward(self, x: Tensor) -> Tensor:
        for index in range(4):
            x = self.layers[index](x)
        return self.head(x)


class SideBySide(Listed):
    """Goes through two lists at once: with fresh weights all norms are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=False):
            x = layer(norm(x))
        return self.head(x)


class Tapped(Listed):
    """Hands out the states after the second and the last layer too."""

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        taps = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in (1, 3):
                taps.append(x)
        return self.head(x), taps


def listed() -> Made:
    return Listed().eval(), tokens()


def between() -> Made:
    return Between().eval(), tokens()


def numbered() -> Made:
    return Numbered().eval(), tokens()


def side_by_side() -> Made:
    return SideBySide().eval(), tokens()


def tapped() -> Made:
    return Tapped().eval(), tokens()


class Branches(nn.Module):
    """A list of pairs of branches; the network itself draws the path around each."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        pairs = ([Attention(width), feedforward(width)] for _ in range(3))
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        for attention, mlp in self.layers:
            x = attention(x) + x
            x = mlp(x) + x
        return self.head(x.mean(1))


def branches() -> Made:
    return randomised(Branches()), tokens()


def shared() -> Made:
    """The first block is also the third."""
    block = PreActivation(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(block, PreActivation(8), block))
    return randomised(model), images()


class TupleLayer(nn.Module):
    """Takes keywords, returns its weights of attention or None beside the hidden state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = VitBlock(width)

    def forward(
        self, *, mask: Tensor, hidden: Tensor, flag: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.block(hidden * mask[..., None]), mask, hidden.mean() if flag else None


class Tuples(nn.Module):
    def __init__(self, *, flag: bool = False, width: int = 16) -> None:
        super().__init__()
        self.flag = flag
        self.layers = nn.ModuleList(TupleLayer(width) for _ in range(3))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        for layer in self.layers:
            x, mask, _ = layer(hidden=x, mask=mask, flag=self.flag)
        return {"logits": self.head(x)}


def tuples() -> Made:
    """Layers with keywords and tuples; the mask is of integers."""
    return randomised(Tuples()), {"x": tokens(), "mask": torch.ones(2, 5, dtype=torch.long)}


class Overwriting(nn.Module):
    """Applies a ReLU in place to what its blocks return."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(PreActivation(8) for _ in range(3))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x).relu_()
        return self.head(x.mean((2, 3)))


def overwriting() -> Made:
    return randomised(Overwriting()), images()


class Eager(nn.Module):
    """Begins with a ReLU in place: what goes around the weights is overwritten too."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.convolution = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(self.relu(x)) + x


def eager() -> Made:
    """Blocks that overwrite what they are given."""
    blocks = nn.Sequential(*(Eager() for _ in range(3)))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return randomised(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), blocks, head)), images()


def post_norm() -> Made:
    """torch's encoder; each of its layers ends with a norm."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return randomised(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)), tokens()


def weight_normed() -> Made:
    """Residual blocks whose weights are computed of a direction and a length."""

    def branch() -> nn.Module:
        first, second = nn.Conv1d(16, 16, 3, padding=1), nn.Conv1d(16, 16, 1)
        return nn.Sequential(
            parametrizations.weight_norm(first), nn.ReLU(), parametrizations.spectral_norm(second)
        )

    stem = parametrizations.weight_norm(nn.Conv1d(5, 16, 1))
    return randomised(nn.Sequential(stem, *(Residual(branch()) for _ in range(3)))), tokens()


def pairs() -> Made:
    """Blocks of two residual parts each, as entries of one Sequential."""
    blocks = (nn.Sequential(Residual(Attention(16)), Residual(feedforward(16))) for _ in range(3))
    return randomised(nn.Sequential(nn.Linear(16, 16), *blocks, nn.Linear(16, 3))), tokens()


NETWORKS: dict[str, Callable[[], Made]] = {
    made.__name__: made
    for made in (
        residual,
        short_stages,
        bottleneck,
        attributes,
        inverted,
        gated,
        convnext,
        vit,
        vgg,
        mlp,
        listed,
        between,
        numbered,
        side_by_side,
        tapped,
        branches,
        shared,
        tuples,
        overwriting,
        eager,
        post_norm,
        weight_normed,
        pairs,
    )
}


def llama(**settings: Any) -> Made:
    """A tiny Llama of four layers, with padding in its input."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        **settings,
    )
    ids = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return randomised(LlamaForCausalLM(config)), {"input_ids": ids, "attention_mask": mask}


def gpt2() -> Made:
    """A tiny GPT-2 of four layers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=32, n_layer=4, n_head=4, vocab_size=64, bos_token_id=1, eos_token_id=2)
    return randomised(GPT2LMHeadModel(config)), {"input_ids": torch.arange(8)[None]}
