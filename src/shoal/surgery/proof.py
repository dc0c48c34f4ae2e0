"""Is the folder of a cut what its blueprint says? Headers and config are read again, no weights."""

from __future__ import annotations

from pathlib import Path

from shoal.architectures.shards import Checkpoint, read_checkpoint
from shoal.architectures.skeletons import difference_of
from shoal.surgery.blueprint import Blueprint
from shoal.surgery.checks import Check
from shoal.surgery.renaming import renamed
from shoal.surgery.structure import Gaps, build_skeleton, gaps

__all__ = ["prove_cut"]


def prove_cut(folder: Path, blueprint: Blueprint) -> tuple[Check, ...]:
    """Return what was checked of a folder that has been written.

    Checked are: names, dtypes and shapes of all tensors, read from the new files; that each layer's
    tensors are those of the source's layer; and that stock code builds of the new config what the files
    hold. Where a loader renames or merges what it reads, names in files and network differ: then they
    must differ as they do in the source.

    Raises:
        VerificationError, ConfigError: If the new files or the new config cannot be read.
    """
    written = read_checkpoint(folder)
    return (
        _check_tensors(written, blueprint),
        _check_layers(written, blueprint),
        _check_class(written, blueprint),
    )


def _check_tensors(written: Checkpoint, blueprint: Blueprint) -> Check:
    pieces = [piece for load in blueprint.loads for piece in load.pieces]
    expected = {piece.key: (piece.entry.dtype, piece.shape) for piece in pieces}
    found = _described(written)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong or len(pieces) != len(expected):
        return Check(
            name="tensors", passed=False, detail=f"not as planned: {', '.join(wrong[:4]) or 'doubled'}"
        )
    return Check(
        name="tensors", passed=True, detail=f"{len(found):,} with the planned names, dtypes and shapes"
    )


def _check_layers(written: Checkpoint, blueprint: Blueprint) -> Check:
    told = []
    for prefix, layers in blueprint.lists.items():
        ours, theirs = _by_layer(written, prefix), _by_layer(blueprint.checkpoint, prefix)
        for new, old in enumerate(layers.kept):
            if ours.pop(str(new), None) != theirs.get(str(old)):
                detail = f"{prefix}.{new} does not hold what {prefix}.{old} of the source holds"
                return Check(name="layers", passed=False, detail=detail)
        if ours:
            detail = f"{', '.join(sorted(ours)[:3])} in {prefix} are too many"
            return Check(name="layers", passed=False, detail=detail)
        told.append(f"{len(layers.kept)} of {layers.length} in {prefix}")
    return Check(name="layers", passed=True, detail=f"as in the source: {', '.join(told) or 'all'}")


def _described(checkpoint: Checkpoint) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (entry.dtype, entry.shape) for name, entry in checkpoint.entries.items()}


def _by_layer(checkpoint: Checkpoint, prefix: str) -> dict[str, dict[str, object]]:
    """What each layer of a list holds, by its number."""
    found: dict[str, dict[str, object]] = {}
    for name, value in _described(checkpoint).items():
        if name.startswith(f"{prefix}."):
            number, _, rest = name[len(prefix) + 1 :].partition(".")
            found.setdefault(number, {})[rest] = value
    return found


def _check_class(written: Checkpoint, blueprint: Blueprint) -> Check:
    built = build_skeleton(written.folder)
    different = difference_of(blueprint.after, built)
    if different:
        return Check(
            name="structure", passed=False, detail=f"the config describes another network: {different}"
        )
    found, before = gaps(written.entries, built), gaps(blueprint.checkpoint.entries, blueprint.before)
    name = type(built).__name__
    if found != _moved(before, blueprint):
        return Check(
            name="structure", passed=False, detail=f"the files do not fit the {name} of the config: {found}"
        )
    if found.none:
        detail = f"every weight of the {name} that the config describes, and no other"
    elif found.missing or found.unexpected:
        detail = f"differs from a {name} as the source does: {found}"
    else:
        detail = f"the weights of a {name}; a loader converts {len(found.misshapen):,}, as in the source"
    return Check(name="structure", passed=True, detail=detail)


def _moved(before: Gaps, blueprint: Blueprint) -> Gaps:
    """The same differences under the new names."""

    def in_network(name: str) -> str | None:
        found: str | None = name
        for layers in blueprint.lists.values():
            found = found and renamed(found, layers.container, layers.kept)
        return found

    return Gaps(
        missing=frozenset(filter(None, map(in_network, before.missing))),
        unexpected=frozenset(blueprint.names[key] for key in before.unexpected if key in blueprint.names),
        misshapen=frozenset(blueprint.names[key] for key in before.misshapen if key in blueprint.names),
    )
