"""Parameters and multiply-accumulates, attributed to modules, with what could not be counted.

MACs are half of the FLOPs that the formulas of `torch.utils.flop_counter` give: matrix products,
convolutions and attention. Elementwise work, reductions, norms, copies, look-ups and pooling count
as nothing, as everywhere in the literature. An operation is *uncounted* when it multiplies and
accumulates and has no formula: products, convolutions, recurrent layers, transforms and
decompositions of aten by name, and every operation of a foreign namespace (custom kernels).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from shoal.calling import Inputs, call, device_of, evaluating, to_device

__all__ = ["MacCount", "count_macs", "count_params"]

_HARMLESS_NAMESPACES = frozenset({"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional"})
_ACCUMULATING_WORD = re.compile(
    r".*mm|.*mv|v?dot|addr|conv(?:olution)?(?:[123]d)?|attention|trilinear|rnn|lstm|gru|fft|cdist|linear|matmul"
    r"|det|slogdet|inv|qr|svd|eigh?|cholesky|lu|solve|encoder"
)
# Elementwise despite their names.
_POINTWISE = frozenset({"_thnn_fused_lstm_cell", "_thnn_fused_gru_cell"})


@dataclass(frozen=True, kw_only=True)
class MacCount:
    """Multiply-accumulates of one forward call.

    Attributes:
        total: All of them; FLOPs are twice that.
        by_module: Those inside every module of the network, by dotted path; `""` is the network. A
            module used under two paths stands under its first, with all its calls.
        uncounted: Operations that the numbers leave out, with how often each was met.
    """

    total: int
    by_module: dict[str, int] = field(hash=False)
    uncounted: dict[str, int] = field(default_factory=dict, hash=False)


def count_params(model: nn.Module) -> int:
    """Return the number of parameters (numbers, not bytes); shared ones count once.

    Example:
        >>> count_params(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Inputs) -> MacCount:
    """Return the multiply-accumulates of one forward call in evaluation mode, without caches.

    Attention counts both of its products in full, causal or not, as the field does.

    Args:
        model: Any network; left as it was found.
        example: What its forward takes: a tensor, a tuple or a dict of keywords.

    Returns:
        The total, the part of every module, and the operations left out.

    Example:
        >>> count_macs(nn.Linear(3, 2), torch.zeros(5, 3)).total
        30
    """
    counter = _Counter(model)
    with evaluating(model), torch.no_grad(), _plain_attention(), counter.tracking(), counter:
        call(model, to_device(example, device_of(model)))
    macs = {name: counter.flops[name] // 2 for name in ("", *counter.names.values())}
    return MacCount(total=macs[""], by_module=macs, uncounted=dict(sorted(counter.uncounted.items())))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Make `nn.TransformerEncoderLayer` and its kin run as countable operations."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Counter(TorchDispatchMode):
    """Sees every operation, and knows from module hooks inside which modules it runs.

    torch's own FlopCounterMode names modules by class and forgets everything that it cannot count.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {module: name for name, module in model.named_modules()}
        self.running: list[str] = []
        self.flops: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Keep `running`, the modules being called, up to date inside the `with`."""

        def enter(module: nn.Module, args: Any) -> None:
            if module in self.names:
                self.running.append(self.names[module])

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if module in self.names:
                self.running.pop()

        handles = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func if isinstance(func, HigherOrderOperator) else func._overloadpacket
        formula = _formula(packet)
        if formula is None and isinstance(func, OpOverload):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **kwargs)
        if formula is not None:
            flops = formula(*args, **kwargs, out_val=output)
            # The set: a module that calls itself counts once.
            for name in {"", *self.running}:
                self.flops[name] += flops
        elif _accumulates(func):
            self.uncounted[str(packet).replace("::", ".")] += 1
        return output


def _formula(packet: Any) -> Callable[..., int] | None:
    own = _FORMULAS.get(packet)
    return own if own is not None else flop_registry.get(packet)


def _accumulates(func: Any) -> bool:
    if isinstance(func, HigherOrderOperator):
        return True
    if func.namespace not in _HARMLESS_NAMESPACES:
        return True
    name = func._overloadpacket.__name__
    if func.namespace != "aten" or func.is_view or name in _POINTWISE:
        return False
    return any(_ACCUMULATING_WORD.fullmatch(word) for word in name.split("_") if word)


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Of `(B, H, T, D)`; fewer key than query heads are shared, and cost as if they were not."""
    return 2 * query.numel() // query.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _matrix_flops(matrix: Tensor, *_: Any, **__: Any) -> int:
    """Of a matrix, or vector, with a vector: two per element."""
    return 2 * matrix.numel()


def _added_matrix_flops(bias: Tensor, matrix: Tensor, *_: Any, **__: Any) -> int:
    return _matrix_flops(matrix)


def _grouped_flops(left: Tensor, right: Tensor, *_: Any, **__: Any) -> int:
    """Of `(M, K)` or `(G, M, K)` with `(K, N)` or `(G, K, N)`: the groups of experts share the rows."""
    shared = left.shape[0] if left.dim() > right.dim() else 1
    return 2 * left.numel() * right.shape[-1] // shared


def _own_formulas() -> dict[Any, Callable[..., int]]:
    """Return the formulas that torch lacks, or has only for equal numbers of heads."""
    named: dict[str, Callable[..., int]] = {
        "mv": _matrix_flops,
        "dot": _matrix_flops,
        "vdot": _matrix_flops,
        "addmv": _added_matrix_flops,
        "_grouped_mm": _grouped_flops,
        "_scaled_dot_product_flash_attention_for_cpu": _attention_flops,
        "_scaled_dot_product_flash_attention": _attention_flops,
        "_scaled_dot_product_efficient_attention": _attention_flops,
        "_scaled_dot_product_cudnn_attention": _attention_flops,
        "_scaled_dot_product_fused_attention_overrideable": _attention_flops,
    }
    aten = torch.ops.aten
    # Older releases of torch do not have all of them.
    return {getattr(aten, name): formula for name, formula in named.items() if hasattr(aten, name)}


_FORMULAS = _own_formulas()
