"""Tiny networks and their chains, made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shoal.units import Chain, Unit


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Net(nn.Module):
    """A stem, four residual blocks, a head; the head's weights are tied to the stem's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Linear(4, 4)
        self.head.weight = self.stem.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def chain_of(model: nn.Module, names: list[str], **fields: Any) -> Chain:
    """A chain of the modules of these names; `a.1:3` stands for `a.1` and `a.2`."""
    units = []
    for index, name in enumerate(names):
        modules = (name,)
        if ":" in name:
            container, _, span = name.rpartition(".")
            first, last = map(int, span.split(":"))
            modules = tuple(f"{container}.{number}".lstrip(".") for number in range(first, last))
        units.append(
            Unit(
                name=name,
                index=index,
                modules=modules,
                container=modules[0].rpartition(".")[0],
                group="",
                kind="",
                params=sum(numbers(model.get_submodule(path)) for path in modules),
                macs=0,
                removable=True,
                **fields,
            )
        )
    return Chain(units=tuple(units), model=type(model).__name__, params=numbers(model), macs=0)


@pytest.fixture
def chained() -> Callable[..., Chain]:
    return chain_of


@pytest.fixture
def net() -> nn.Module:
    model = Net()
    for _ in range(3):
        model(torch.randn(16, 4))
    return model.eval()


@pytest.fixture
def net_chain(net: nn.Module) -> Chain:
    return chain_of(net, [f"blocks.{index}" for index in range(4)])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4)


@pytest.fixture
def llama() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture
def llama_chain(llama: Any) -> Chain:
    return chain_of(llama, [f"model.layers.{index}" for index in range(3)])
