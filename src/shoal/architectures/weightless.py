"""Networks that were built without memory for their weights, run as if they had some.

Much of what a network does depends on shapes alone, but not all of what runs on the way: a mixture of
experts looks at its tokens' experts, a mask at its entries. So a network whose parameters lie on the meta
device is lent weights of which all rows are the same row: ordinary tensors on the CPU that need the memory
of one row, and a product with them costs as much as one with that row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from shoal.architectures.huggingface import is_pretrained
from shoal.architectures.skeletons import skeleton

__all__ = ["SlimProducts", "is_weightless", "lent_weights"]


def is_weightless(model: nn.Module) -> bool:
    """Return whether a network was built without memory for its weights.

    Weights that Accelerate's hooks bring when they are needed are not missing.

    Example:
        >>> with torch.device("meta"):
        ...     built = nn.Linear(3, 2)
        >>> is_weightless(built), is_weightless(nn.Linear(3, 2))
        (True, False)
    """
    hooked = any(hasattr(module, "_hf_hook") for module in model.modules())
    return not hooked and any(parameter.is_meta for parameter in model.parameters())


@contextmanager
def lent_weights(model: nn.Module) -> Iterator[nn.Module]:
    """Let a network without weights run inside the `with`; one that has weights stays as it is.

    Parameters of several axes have equal rows (along the last axis) of small random numbers, those of one
    axis random numbers around one; buffers without numbers get ones, or zeros where they hold integers.
    Shared parameters stay shared. What the network puts out is finite and of no meaning.

    Example:
        >>> with torch.device("meta"):
        ...     built = nn.Linear(3, 2)
        >>> with lent_weights(built):
        ...     built(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
        >>> built.weight.is_meta
        True
    """
    if not is_weightless(model):
        yield model
        return
    lent = _buffers(model)
    generator = torch.Generator().manual_seed(0)
    with ExitStack() as stack:
        for module in model.modules():
            for name, tensor in _wanting(module):
                if id(tensor) not in lent:
                    lent[id(tensor)] = _lent(tensor, generator)
                # By attribute: recurrent layers keep a list of their weights beside.
                stack.callback(setattr, module, name, tensor)
                setattr(module, name, lent[id(tensor)])
        stack.enter_context(SlimProducts())
        # What is left to compute is too little to be shared among threads.
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        yield model


def _buffers(model: nn.Module) -> dict[int, Tensor]:
    """What models of transformers compute for the buffers that have no numbers, by the buffers' ids."""
    found: dict[int, Tensor] = {}
    for module in model.modules():
        own = dict(module.named_buffers()) if is_pretrained(module) else {}
        if any(buffer.is_meta and id(buffer) not in found for buffer in own.values()):
            built = skeleton(type(module), module.config)
            values = {} if built is None else dict(built.named_buffers())
            found |= {id(own[name]): value.clone() for name, value in values.items() if name in own}
    return found


def _wanting(module: nn.Module) -> list[tuple[str, Tensor]]:
    """All parameters (some are made in memory whatever the device), and what else has no numbers."""
    others = [*module._buffers.items(), *vars(module).items()]
    return [(name, value) for name, value in module._parameters.items() if value is not None] + [
        (name, value) for name, value in others if isinstance(value, Tensor) and value.is_meta
    ]


def _lent(tensor: Tensor, generator: torch.Generator) -> Tensor:
    shape = tensor.shape
    if not isinstance(tensor, nn.Parameter):
        return torch.full(shape, float(tensor.is_floating_point()), dtype=tensor.dtype)
    if not tensor.is_floating_point():
        value = torch.zeros((), dtype=tensor.dtype).expand(shape)
    elif len(shape) < 2:
        value = (1 + 0.1 * torch.randn(shape, generator=generator)).to(tensor.dtype)
    else:
        value = (0.02 * torch.randn(shape[-1], generator=generator)).to(tensor.dtype).expand(shape)
    return nn.Parameter(value, requires_grad=tensor.requires_grad)


class SlimProducts(TorchDispatchMode):
    """Multiplies matrices of equal rows or columns, as `expand` makes them, without writing them out.

    Example:
        >>> with SlimProducts():
        ...     (torch.ones(2, 3) @ torch.ones(()).expand(3, 2)).tolist()
        [[3.0, 3.0], [3.0, 3.0]]
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        writes = isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable
        if writes and args and _once(args[0]) is not args[0]:
            # torch refuses to write where one number stands in several places.
            func(*map(_once, args), **(kwargs or {}))
            return args[0]
        return _PRODUCTS.get(func, func)(*args, **(kwargs or {}))


def _once(value: Any) -> Any:
    """A tensor's numbers without their repetitions."""
    if isinstance(value, Tensor):
        for axis, (stride, size) in enumerate(zip(value.stride(), value.shape, strict=True)):
            value = value.narrow(axis, 0, 1) if stride == 0 and size > 1 else value
    return value


def _product(left: Tensor, right: Tensor) -> Tensor:
    """`(…, M, K)` with `(…, K, N)`; of equal rows, columns and terms only the first is used."""
    shape, dtype = (*left.shape[:-1], right.shape[-1]), left.dtype
    if left.stride(-2) == 0:
        left = left[..., :1, :]
    if right.stride(-1) == 0:
        right = right[..., :1]
    if right.stride(-2) == 0 and right.shape[-2]:
        # A sum may pass the largest number of half precision.
        wide = torch.promote_types(dtype, torch.float32)
        left, right = left.to(wide).sum(-1, keepdim=True), right[..., :1, :].to(wide)
    return torch.matmul(left, right).to(dtype).expand(shape).contiguous()


def _added_product(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    product = alpha * _product(left, right)
    return beta * bias + product if beta else product


def _grouped_product(left: Tensor, right: Tensor, offs: Tensor | None = None, *rest: Any) -> Tensor:
    """`(M, K)` with `(G, K, N)`: every group has a share of the rows."""
    if left.dim() == 2 and right.dim() == 3 and right.stride(0) == 0:
        return _product(left, right[0])
    grouped: Tensor = torch.ops.aten._grouped_mm(left, right, offs, *rest)
    return grouped


def _products() -> dict[Any, Callable[..., Tensor]]:
    aten = torch.ops.aten
    plain = {aten.mm.default: _product, aten.bmm.default: _product}
    added = {aten.addmm.default: _added_product, aten.baddbmm.default: _added_product}
    # Older releases of torch do not have it.
    grouped = {aten._grouped_mm.default: _grouped_product} if hasattr(aten, "_grouped_mm") else {}
    return plain | added | grouped


_PRODUCTS = _products()
