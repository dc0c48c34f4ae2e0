"""Surgery on a checkpoint: the bytes of what stays go from folder to folder, no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.architectures import example_for
from shoal.architectures.functions import file_hash
from shoal.architectures.pretrained import auto_class, copy_companions
from shoal.architectures.shards import INDEX, read_checkpoint
from shoal.errors import ConfigError, VerificationError
from shoal.journal import fingerprint
from shoal.plan import Plan
from shoal.result import Measurement
from shoal.surgery.blueprint import Blueprint, draw_blueprint
from shoal.surgery.card import model_card
from shoal.surgery.carrying import carry
from shoal.surgery.checks import Check, Depth, Verification
from shoal.surgery.equality import check_equal
from shoal.surgery.folders import check_target, resumable
from shoal.surgery.hashing import CHUNK, SourceHashes
from shoal.surgery.loading import read_folder
from shoal.surgery.probe import write_probe
from shoal.surgery.proof import prove_cut
from shoal.surgery.record import PROBE, WEIGHTS, plain, share, versions, write_record
from shoal.surgery.removal import remove_units
from shoal.surgery.storage import storage_fields, write_cut_config
from shoal.surgery.structure import not_loaded, read_fields
from shoal.surgery.verification import fits_in_memory, record_verification, verify

__all__ = ["cut_folder", "is_checkpoint", "why_in_memory"]

# Reading so many bytes again takes a moment.
_SMALL = 2_000_000_000


def is_checkpoint(folder: Path) -> bool:
    """Return whether a path is a local Hugging Face folder with safetensors."""
    return (folder / "config.json").exists() and any((folder / name).exists() for name in (WEIGHTS, INDEX))


def why_in_memory(
    folder: Path, plan: Plan, *, dtype: str | None = None, trust_remote_code: bool = False
) -> str:
    """Return why a plan is to be carried out on a loaded network, and not on a folder's files; else empty.

    Args:
        folder: A local folder, or what is none.
        plan: What to remove.
        dtype: In which the weights are wanted; None for their own.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ConfigError: If the folder's config is damaged, or asks for files or code from elsewhere.
    """
    if not is_checkpoint(folder):
        return "it is no local Hugging Face folder with safetensors"
    if plan.merges:
        return "the plan merges layers, and files can only lose whole layers"
    if any(step.removal != "delete" for step in plan.removals):
        return "the plan bypasses units, and files can only lose whole layers"
    fields = read_fields(folder)
    stored = fields.get("dtype") or fields.get("torch_dtype")
    if dtype not in (None, stored):
        return f"the weights are wanted in {dtype} and stored in {stored or 'what no config says'}"
    if not fields.get("architectures"):
        return "its config names no class"
    if trust_remote_code and fields.get("auto_map"):
        return "its config brings its own code"
    return ""


def cut_folder(
    folder: str | Path,
    plan: Plan,
    target: str | Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    depth: Depth = "auto",
    extra: Mapping[str, Any] | None = None,
    chunk: int = CHUNK,
) -> Verification:
    """Write the cut of a Hugging Face folder without loading the model, and return what was checked.

    Of the weights only the headers are read; the bytes of the tensors that stay are copied under their
    new names and keep the dtype in which they are stored. Nothing is done before all headers and the
    config have been found right, and no code but that of transformers is run. `shoal.json` notes the
    SHA-256 of every source file and of every new one.

    Args:
        folder: A Hugging Face folder with safetensors.
        plan: What to remove: whole layers.
        target: The folder to make; it appears when it is complete.
        overwrite: Whether a folder of that name, empty or written by shoal, may be replaced.
        resume: Whether to go on where a process was killed; what it left is thrown away otherwise.
        depth: How the folder is checked before it appears: `structure` compares headers and loads
            nothing, `full` loads it too and generates, `auto` does so up to 2 GB of weights where memory
            allows.
        extra: More fields for `shoal.json`, such as `seeds`; JSON values.
        chunk: Bytes that are moved at once.

    Raises:
        ConfigError: If the target may not be written, or the config is damaged or asks for other code.
        VerificationError: If files of the source are damaged, or what was written fails a check.
        PlanError, UnitError, SurgeryError: As `apply`.
    """
    source, target = Path(folder), Path(target)
    plan.check_removes(f"cut the files of {str(folder)!r}")
    _check_apart(source, target)
    check_target(target, overwrite=overwrite)
    checkpoint = read_checkpoint(source)
    with SourceHashes(checkpoint.shards) as hashes:
        blueprint = draw_blueprint(checkpoint, plan)
        storage, key = storage_fields(blueprint), _key(blueprint, depth, extra)
        with resumable(target, key, overwrite=overwrite, resume=resume) as (partial, journal):
            written = carry(blueprint.loads, partial, journal, chunk=chunk)
            _write_index(blueprint, partial)
            write_cut_config(blueprint, storage, partial)
            copy_companions(source, partial)
            checks = prove_cut(partial, blueprint)
            if _is_loaded(blueprint, depth):
                written |= _probe(blueprint, partial)
            record = plain({**_record(blueprint), "hash": written, **(extra or {})})
            record["source"]["hash"] = hashes.result()
            write_record(partial, record)
            share(partial)
            (partial / "README.md").write_text(model_card(record), encoding="utf-8")
            checks = _verified(partial, target, blueprint, checks, depth)
            record_verification(Verification(folder=partial, checks=checks))
    return Verification(folder=target, checks=checks)


def _promised_sizes(blueprint: Blueprint) -> tuple[Measurement | None, Measurement | None]:
    """Return parameters, and the MACs that the plan was made with, before and after; None without them."""
    plan, macs = blueprint.plan, blueprint.plan.predicted.get("macs")
    if type(macs) is not int:
        return None, None
    before = Measurement(params=plan.model.params, macs=plan.model.macs)
    return before, Measurement(params=blueprint.params, macs=macs)


def _key(blueprint: Blueprint, depth: str, extra: Any) -> str:
    """What decides the bytes that are written."""
    shards = [
        (shard.name, shard.size, shard.changed, sorted(shard.entries.items()), sorted(shard.metadata.items()))
        for shard in blueprint.checkpoint.shards
    ]
    return fingerprint(shards, blueprint.plan.to_json(), depth, plain(extra), versions())


def _write_index(blueprint: Blueprint, folder: Path) -> None:
    if len(blueprint.loads) < 2:
        return
    places = {piece.key: load.name for load in blueprint.loads for piece in load.pieces}
    metadata: dict[str, Any] = {"total_size": sum(load.size for load in blueprint.loads)}
    if "total_parameters" in blueprint.checkpoint.metadata:
        metadata["total_parameters"] = blueprint.params
    index = {"metadata": metadata, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _record(blueprint: Blueprint) -> dict[str, Any]:
    plan, kind = blueprint.plan, type(blueprint.after)
    before, after = _promised_sizes(blueprint)
    return {
        "plan": json.loads(plan.to_json()),
        "source": {"reference": str(blueprint.checkpoint.folder), "kind": "huggingface"},
        "evidence": None,
        "before": before and before.as_json(),
        "after": after and after.as_json(),
        "verification": None,
        "seeds": {},
        "versions": versions(),
        "format": "huggingface",
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "auto_class": auto_class(kind.__name__),
        "dtype": blueprint.dtype,
        "params": blueprint.params,
    }


def _check_apart(source: Path, target: Path) -> None:
    inside = target.resolve()
    if source.resolve() in (inside, *inside.parents):
        raise ConfigError(
            f"asked to write the cut of {str(source)!r} as {str(target)!r}: that is the original, or in it. "
            "Name a folder beside it."
        )


def _is_loaded(blueprint: Blueprint, depth: Depth) -> bool:
    """Whether the folder is loaded to be checked."""
    small = blueprint.size <= _SMALL and fits_in_memory(blueprint.size)
    return depth == "full" or (depth == "auto" and small)


def _probe(blueprint: Blueprint, folder: Path) -> dict[str, str]:
    """Write what the original answers without the removed layers, and return the hash of that file.

    Nothing where the original does not fit beside its cut, or does not say what it takes.
    """
    if not fits_in_memory(blueprint.checkpoint.size + blueprint.size):
        return {}
    try:
        original, _ = read_folder(blueprint.checkpoint.folder)
        example = example_for(original)
    except (ConfigError, VerificationError):
        # What is wrong with the original is not the cut's.
        return {}
    small = remove_units(original, blueprint.plan)
    check_equal(original, blueprint.plan, small, example)
    write_probe(small, example, folder / PROBE)
    return {PROBE: file_hash(folder / PROBE)}


def _verified(
    partial: Path, target: Path, blueprint: Blueprint, checks: tuple[Check, ...], depth: Depth
) -> tuple[Check, ...]:
    if not _is_loaded(blueprint, depth):
        size = f"the weights take {blueprint.size / 1e9:.1f} GB"
        return (*checks, *not_loaded("not asked for" if depth == "structure" else size))
    try:
        return (*checks, *verify(partial, depth="full").checks)
    except VerificationError as error:
        raise VerificationError(str(error).replace(str(partial), str(target))) from error
