"""LoRA adapters of a network, made to fit what is left of it after a plan.

An adapter of peft is a folder: `adapter_config.json` says which modules it changes, and
`adapter_model.safetensors` holds two small matrices for each of them. Those of layers that stay get the
new numbers of these, those of layers that go are left out. Nothing is merged.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shoal.architectures.pretrained import copy_companions
from shoal.architectures.untrusted import file_inside, read_json
from shoal.errors import ConfigError, PlanError
from shoal.plan import Plan
from shoal.surgery.folders import check_target, written_whole
from shoal.surgery.record import hashes, plain, versions, write_record
from shoal.surgery.rekeying import Moves, refit_config

__all__ = ["RekeyedAdapter", "rekey_adapter"]

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
CARD = "README.md"
# What peft puts in front of the names of the network's own modules.
_FRONT = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class RekeyedAdapter:
    """An adapter that was made to fit.

    Attributes:
        folder: Where it was written.
        kept: How many of the adapter's weights are in it.
        dropped: How many were left out.
        notes: What its user should know.
    """

    folder: Path
    kept: int
    dropped: int
    notes: tuple[str, ...]


def rekey_adapter(
    folder: str | Path, plan: Plan, target: str | Path, *, overwrite: bool = False
) -> RekeyedAdapter:
    """Write the adapter that does to the cut network what a LoRA adapter does to the original.

    With it the cut network puts out what the original puts out with the adapter of old, the plan's units
    bypassed.

    Args:
        folder: The adapter, as `save_pretrained` of peft writes it.
        plan: What was removed from the network that the adapter was trained on.
        target: The folder to make; it appears when it is complete.
        overwrite: Whether a folder of that name that shoal wrote may be replaced.

    Raises:
        ConfigError: If the target may not be written, or the folder is no adapter that can be re-keyed:
            a pickle, another kind than LoRA, patterns that may mean layers by their numbers.
        PlanError: If the plan is for another network, or nothing of the adapter is left.
        VerificationError: If a file is damaged, or leads out of the folder.
    """
    source, made = Path(folder), Path(target)
    asked = f"asked to re-key the adapter {str(source)!r}"
    check_target(made, overwrite=overwrite)
    config, (weights, metadata) = _read_config(source, asked), _read_weights(source, asked)
    moves = Moves(plan, [key.removeprefix(_FRONT) for key in weights], asked)
    moved = {key: moves.of(key.removeprefix(_FRONT)) for key in weights}
    kept = {
        _FRONT * key.startswith(_FRONT) + new: weights[key] for key, new in moved.items() if new is not None
    }
    if all(moves.of(module) is None for module in moves.modules):
        raise PlanError(
            f"{asked}: all of the {len(moves.modules)} modules that it changes are in units that the plan "
            "removes. Nothing of it is left: use the cut network without it."
        )
    _check_base(asked, config, plan)
    changed = refit_config(config, moves)
    notes = _notes(config, changed)
    with written_whole(made, overwrite=overwrite) as partial:
        save_file(kept, partial / WEIGHTS, metadata=metadata)
        (partial / CONFIG).write_text(json.dumps(changed, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        copy_companions(source, partial)
        if (source / CARD).is_symlink() or (source / CARD).exists():
            shutil.copyfile(file_inside(source, CARD), partial / CARD)
        fields = {
            "format": "adapter",
            "plan": json.loads(plan.to_json()),
            "source": {"kind": "adapter", "reference": str(source)},
            "kept": len(kept),
            "dropped": len(weights) - len(kept),
            "notes": notes,
            "versions": versions(),
            "hash": hashes(partial),
        }
        write_record(partial, plain(fields))
        # safetensors makes files that only their owner can read, whatever the umask says.
        (partial / WEIGHTS).chmod((partial / CONFIG).stat().st_mode)
    return RekeyedAdapter(folder=made, kept=len(kept), dropped=len(weights) - len(kept), notes=notes)


def _read_config(folder: Path, asked: str) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{asked}: there is no {CONFIG} in it. A folder that peft wrote has one.")
    config = read_json(file_inside(folder, CONFIG))
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise ConfigError(
            f"{asked}: it is of the type {kind!r}. Adapters of the type 'LORA' can be re-keyed."
        )
    if config.get("layer_replication"):
        raise ConfigError(
            f"{asked}: it copies layers before it changes them (layer_replication), and says by number "
            "which. Train one without that."
        )
    return dict(config)


def _read_weights(folder: Path, asked: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not (folder / WEIGHTS).exists():
        if (folder / PICKLE).exists():
            raise ConfigError(
                f"{asked}: its weights are a pickle ({PICKLE}), which may run code when it is read. Save it "
                "again with peft, which writes safetensors."
            )
        raise ConfigError(f"{asked}: there is no {WEIGHTS} in it. A folder that peft wrote has one.")
    try:
        with safe_open(file_inside(folder, WEIGHTS), "pt") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ConfigError(f"{asked}: {WEIGHTS} is damaged ({error}). Fetch the folder again.") from error


def _check_base(asked: str, config: Mapping[str, Any], plan: Plan) -> None:
    """Check that the plan was made for the network that an adapter names, where that is a local folder."""
    base = Path(str(config.get("base_model_name_or_path") or "")) / "config.json"
    if not base.is_file():
        return
    fields = read_json(base)
    named = (fields.get("architectures") or [""])[0] if isinstance(fields, dict) else ""
    # An adapter may be of the inner network or of one with another head.
    families = [re.split("For|Model|LMHead", name)[0] for name in (named, plan.model.name)]
    if named and families[0] != families[1]:
        raise PlanError(
            f"{asked}: the adapter's base {str(base.parent)!r} is a {named}, and the plan was made for a "
            f"{plan.model.name}. Make a plan for the base."
        )


def _notes(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    notes = []
    if base := before.get("base_model_name_or_path"):
        notes.append(f"{CONFIG} names {base!r} as its base still: load it onto the cut network")
    if before.get("target_modules") != after.get("target_modules"):
        notes.append("the modules that it changes are written out by name")
    return tuple(notes)
