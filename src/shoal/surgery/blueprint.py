"""A Hugging Face folder + plan → what the cut folder will be: known from config and headers alone.

The class that the config names is built without weights and cut like any other network, which gives the
config of what stays; the weights are bytes that will stand under new names.

L = layers of a list before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from shoal.architectures.pretrained import companions
from shoal.architectures.refitting import plan_refit
from shoal.architectures.shards import Checkpoint
from shoal.errors import SurgeryError, UnitError
from shoal.plan import Plan
from shoal.surgery.carrying import Load, Part, Piece, header_of
from shoal.surgery.record import WEIGHTS
from shoal.surgery.removal import remove_units
from shoal.surgery.renaming import Shortened, find_prefix, renamed, shortened_lists, surviving_keys
from shoal.surgery.structure import build_skeleton, left_unread, read_fields, stock_names

__all__ = ["Blueprint", "draw_blueprint"]

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """What the cut of a folder will be.

    Attributes:
        checkpoint: The headers of the folder.
        plan: What is removed.
        before: The network before, without weights.
        after: The network after, without weights; its config describes it.
        lists: The lists that lose layers, by their prefixes in the checkpoint.
        names: New name of every tensor that stays, by its old one.
        loads: The files to write.
    """

    checkpoint: Checkpoint
    plan: Plan = field(hash=False)
    before: nn.Module = field(hash=False)
    after: nn.Module = field(hash=False)
    lists: Mapping[str, Shortened] = field(hash=False)
    names: Mapping[str, str] = field(hash=False)
    loads: tuple[Load, ...]

    @property
    def size(self) -> int:
        """Bytes of the files of weights that will be written."""
        return sum(len(header_of(load)) + load.size for load in self.loads)

    @property
    def dtype(self) -> str:
        """The dtype that the config names, else that of the first floating-point tensor."""
        fields = read_fields(self.checkpoint.folder)
        stored = (_DTYPES.get(entry.dtype) for entry in self.checkpoint.entries.values())
        told = fields.get("dtype") or fields.get("torch_dtype")
        return str(told or next(filter(None, stored), "float32"))

    @property
    def params(self) -> int:
        """Parameters of the network after."""
        return sum(parameter.numel() for parameter in self.after.parameters())


def draw_blueprint(checkpoint: Checkpoint, plan: Plan) -> Blueprint:
    """Return what the cut of a folder will be; nothing is written and no weight is read.

    Args:
        checkpoint: The headers of a Hugging Face folder.
        plan: What to remove: whole entries of lists.

    Raises:
        ConfigError: If the config is missing or damaged, or asks for code that is not of transformers.
        VerificationError: If a file leads out of the folder, or the names of tensors do not show which
            layer they belong to.
        PlanError, UnitError, SurgeryError: As `apply`.
    """
    folder = checkpoint.folder
    plan.check_removes(f"cut the files of {str(folder)!r}")
    # Fails now and not after the weights are written.
    companions(folder)
    before = build_skeleton(folder)
    bypassed = [step.unit for step in plan.removals if step.removal != "delete"]
    if bypassed:
        raise UnitError(
            f"asked to bypass {', '.join(bypassed[:3])} in the checkpoint {str(folder)!r}: only whole layers "
            "can be removed from files. Load the network and cut it in memory."
        )
    after = remove_units(before, plan)
    stock, lists = stock_names(checkpoint.entries, before), {}
    for layers in shortened_lists(before, plan):
        numbers = frozenset(
            number
            for number, layer in enumerate(before.get_submodule(layers.container).children())
            if layer.state_dict()
        )
        lists[find_prefix(stock, layers, numbers)] = layers
    ignored = left_unread(stock, before.state_dict(), before)
    names = surviving_keys((key for key in checkpoint.entries if key not in ignored), lists)
    sliced = _parts(before, after, lists.values())
    parts = {key: sliced[name] for key, name in stock.items() if name in sliced}
    return Blueprint(
        checkpoint=checkpoint,
        plan=plan,
        before=before,
        after=after,
        lists=lists,
        names=names,
        loads=_loads(checkpoint, names, parts),
    )


def _parts(before: nn.Module, after: nn.Module, lists: Iterable[Shortened]) -> dict[str, Part]:
    """Which part stays of weights outside of the layers that hold a part for each, by their old names."""
    old = {name: tuple(value.shape) for name, value in before.state_dict().items()}
    new = {name: tuple(value.shape) for name, value in after.state_dict().items()}
    kept = {layers.container: layers.kept for layers in lists}
    moved = {name: _renamed(name, kept) for name in old}
    expected = {name for name in moved.values() if name is not None}
    if expected != new.keys():
        strange = sorted(expected ^ new.keys())
        raise _inexpressible(before, f"the layers would have other weights ({', '.join(strange[:3])})")
    resized = {name for name, place in moved.items() if place is not None and old[name] != new[place]}
    if not resized:
        return {}
    sliced = {each.name: each for each in plan_refit(before, kept).sliced}
    if unknown := sorted(resized - sliced.keys()):
        raise _inexpressible(before, f"{', '.join(unknown[:3])} would have another shape")
    return {name: Part(axis=each.axis, length=each.length, kept=each.kept) for name, each in sliced.items()}


def _inexpressible(model: nn.Module, reason: str) -> SurgeryError:
    return SurgeryError(
        f"asked to cut a checkpoint of {type(model).__name__}: at their new numbers {reason}. Load the "
        "network and cut it in memory."
    )


def _renamed(name: str, kept: Mapping[str, tuple[int, ...]]) -> str | None:
    found: str | None = name
    for container, numbers in kept.items():
        found = found and renamed(found, container, numbers)
    return found


def _loads(checkpoint: Checkpoint, names: Mapping[str, str], parts: Mapping[str, Part]) -> tuple[Load, ...]:
    """A file for each of the source of which something stays."""
    filled = [
        (
            shard,
            tuple(
                Piece(key=names[key], entry=entry, part=parts.get(key))
                for key, entry in shard.entries.items()
                if key in names
            ),
        )
        for shard in checkpoint.shards
    ]
    filled = [(shard, pieces) for shard, pieces in filled if pieces]
    count = len(filled)
    return tuple(
        Load(
            name=WEIGHTS if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors",
            source=shard,
            pieces=pieces,
        )
        for number, (shard, pieces) in enumerate(filled, start=1)
    )
