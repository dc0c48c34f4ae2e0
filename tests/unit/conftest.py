"""Chains made by hand, for the tests of what knows no model, and small networks for the others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from shoal.units import Chain, Unit

MakeChain = Callable[..., Chain]


@pytest.fixture
def make_chain() -> MakeChain:
    """Return a function that makes a chain `layers.0 …` of these sizes, MACs ten times the parameters."""

    def make(
        params: Sequence[int] = (10, 20, 30, 40),
        *,
        fixed: Collection[int] = (),
        rest: int = 100,
        groups: Sequence[str] = (),
    ) -> Chain:
        units = tuple(
            Unit(
                name=f"layers.{index}",
                index=index,
                modules=(f"layers.{index}",),
                container="layers",
                group=groups[index] if groups else "layers",
                kind="Block",
                params=size,
                macs=10 * size,
                removable=index not in fixed,
                why="it changes the shape" if index in fixed else "",
            )
            for index, size in enumerate(params)
        )
        whole = sum(params) + rest
        return Chain(units=units, model="Net", params=whole, macs=10 * whole)

    return make


@pytest.fixture(scope="session")
def cifar_resnet() -> ModuleType:
    """The example `cifar_resnet.py` as a module."""
    spec = spec_from_file_location("cifar_resnet", Path(__file__).parents[2] / "examples" / "cifar_resnet.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small_resnet(cifar_resnet: ModuleType) -> Any:
    """A residual network of nine blocks for images `(B, 3, 8, 8)` of ten classes; two change the shape."""
    import torch

    model = cifar_resnet.CifarResNet((3, 3, 3))
    for _ in range(3):
        model(torch.randn(32, 3, 8, 8))
    return model.eval()


@pytest.fixture
def small_llama() -> Any:
    """A Llama of five layers, width 16, for 64 tokens."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks lose more by handing work to threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def images() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two batches of tiny images with labels."""
    return [(torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))) for _ in range(2)]


@pytest.fixture
def text() -> list[dict[str, torch.Tensor]]:
    """Two batches of token ids."""
    return [{"input_ids": torch.randint(0, 64, (4, 12))} for _ in range(2)]


@pytest.fixture
def untouched() -> Callable[[torch.nn.Module], Callable[[], None]]:
    """Return a function that notes a model, and another that compares it with the note."""

    def note(model: torch.nn.Module) -> Callable[[], None]:
        before = deepcopy(model.state_dict())
        modes = [module.training for module in model.modules()]
        random = torch.get_rng_state()

        def compare() -> None:
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
            assert [module.training for module in model.modules()] == modes
            assert torch.equal(torch.get_rng_state(), random)
            assert all(p.grad is None and p.requires_grad for p in model.parameters())
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

        return compare

    return note
