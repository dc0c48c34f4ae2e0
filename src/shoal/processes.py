"""Several processes that share one pass over the data, as `accelerate launch` or torchrun starts them.

Each runs the same program with the same model and the same data, and takes every n-th batch of it; what
they have summed is exchanged. Whoever fails says so in its next exchange, so that none waits for it.
Where there is one process nothing is exchanged and nothing imported.
"""

from __future__ import annotations

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from shoal import errors
from shoal.errors import ConfigError, DataError, ShoalError, ShoalWarning
from shoal.meeting import meet

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Processes", "together"]

T = TypeVar("T")

_current: ContextVar[Processes | None] = ContextVar("shoal_processes", default=None)


@contextmanager
def together() -> Iterator[Processes]:
    """Yield the processes that do together what is inside the `with`; all of them have to enter it.

    An error in one is an error in all of them: no process waits for one that has failed, and none
    leaves before all are through. Only the main process warns. In a `with` inside another, the outer
    one's processes go on.

    Raises:
        ConfigError, MissingExtraError: As `meet` of `shoal.meeting`.

    Example:
        >>> with together() as processes:
        ...     list(processes.share("ab"))
        [(0, 'a'), (1, 'b')]
    """
    processes = _current.get() or Processes(*meet())
    if processes.count == 1 or _current.get() is not None:
        yield processes
        return
    token = _current.set(processes)
    try:
        with warnings.catch_warnings():
            if processes.number:
                warnings.simplefilter("ignore", ShoalWarning)
            yield processes
        processes.exchange(None)
    except Exception as error:
        processes.tell(error)
        raise
    finally:
        _current.reset(token)


class Processes:
    """This process among those that work together.

    Args:
        number: Which of them this is, from 0, the main process.
        count: How many there are.
    """

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count
        self._ended = False

    def share(self, batches: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield those batches that are this process's, with their numbers in the whole.

        Raises:
            DataError: If the processes do not go through the same batches.
        """
        if self.count == 1:
            yield from enumerate(batches)
            return
        seen, number = 0, -1
        for number, batch in enumerate(batches):
            seen = _fingerprint(batch, seen)
            if number % self.count == self.number:
                yield number, batch
            if number % self.count == self.count - 1:
                self._compare(number, seen)
        self._compare(number, seen, "end")

    def share_of(self, total: int | None) -> int | None:
        """Return how many of so many batches are this process's."""
        return None if total is None else len(range(self.number, total, self.count))

    def _compare(self, number: int, *seen: object) -> None:
        if len(set(self.exchange((number, *seen)))) > 1:
            raise DataError(
                f"asked to share batches among {self.count} processes: after {number + 1} batches they do "
                "not have the same. Give all processes the same batches in the same order (seed what "
                "shuffles them), not shares of their own such as those of `accelerator.prepare`."
            )

    def check_same(self, model: nn.Module, what: object = None) -> None:
        """Check that all processes have the same model, by the sizes of its weights.

        Args:
            model: The model.
            what: More that has to be equal.

        Raises:
            ConfigError: If not.
        """
        if self.count == 1:
            return
        found = self.exchange((what, _sizes(model)))
        first, sizes = found[0]
        if any(other != first or not _close(sizes, theirs) for other, theirs in found):
            raise ConfigError(
                f"asked to share the work on {type(model).__name__} among {self.count} processes: they do "
                "not have the same weights or units. Load trained weights, or seed what draws them, alike in "
                "all processes."
            )

    def add_gradients_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients of the parameters by their sums over all processes."""
        if self.count == 1:
            return
        import torch

        parameters = list(dict.fromkeys(parameters))
        reached = self.exchange([parameter.grad is not None for parameter in parameters])
        anywhere = [any(each) for each in zip(*reached, strict=True)]
        chosen = [parameter for parameter, met in zip(parameters, anywhere, strict=True) if met]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in chosen]
        # None begins to add before all have the memory for it.
        self.exchange(None)
        for parameter, gradient in zip(chosen, gradients, strict=True):
            _add_(gradient)
            parameter.grad = gradient

    def exchange(self, value: T) -> list[T]:
        """Return what every process hands in here, in the order of their numbers.

        Raises:
            ShoalError: What another process raised.
            RuntimeError: If another process failed in another way, or is gone.
        """
        if self.count == 1:
            return [value]
        found = self._gathered((None, value))
        failure = next((failure for failure, _ in found if failure is not None), None)
        if failure is not None:
            self._ended = True
            raise failure.error(self.count)
        return [value for _, value in found]

    def tell(self, error: Exception) -> None:
        """Tell the other processes, which wait in their next exchange, that this one has failed."""
        if self._ended:
            return
        self._ended = True
        with suppress(RuntimeError):
            self._gathered((_Failure(number=self.number, kind=type(error).__name__, text=str(error)), None))

    def _gathered(self, value: Any) -> list[Any]:
        from torch import distributed

        found: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(found, value)
        except RuntimeError as error:
            self._ended = True
            raise RuntimeError(
                f"another of the {self.count} processes has ended or cannot be reached ({error})"
            ) from error
        return found


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """What went wrong in one process, in a form that can be sent."""

    number: int
    kind: str
    text: str

    def error(self, count: int) -> Exception:
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, ShoalError):
            # Some are made of other arguments than their message.
            return kind.__new__(kind, self.text)
        return RuntimeError(f"process {self.number} of {count} failed with {self.kind}: {self.text}")


def _fingerprint(batch: Any, seed: int) -> int:
    """A number that says which tensors a batch holds, and those before it."""
    import torch
    from torch.utils._pytree import tree_leaves

    for leaf in tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch):
        if isinstance(leaf, torch.Tensor):
            seed = zlib.crc32(leaf.detach().cpu().flatten().view(torch.uint8).numpy().data, seed)
            seed = zlib.crc32(str((leaf.dtype, tuple(leaf.shape))).encode(), seed)
    return seed


def _sizes(model: nn.Module) -> list[float]:
    import torch

    # What is offloaded has no values here.
    held = [p.detach() for p in model.parameters() if p.is_floating_point() and not p.is_meta]
    return [float(torch.linalg.vector_norm(tensor, 1, dtype=torch.float64)) for tensor in held]


def _close(first: Sequence[float], second: Sequence[float]) -> bool:
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(
        math.isclose(a, b, rel_tol=1e-9) or (math.isnan(a) and math.isnan(b)) for a, b in pairs
    )


def _add_(gradient: Tensor) -> None:
    """Sum a gradient over all processes, in float32 at least."""
    import torch
    from torch import distributed

    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if not wide.is_cuda and "nccl" in distributed.get_backend():
        wide = wide.cuda()
    distributed.all_reduce(wide)
    gradient.copy_(wide)
