"""Networks of transformers that no config can express: kept as their original's config and the plans
that make them of it.

The config stands in a folder of its own, where no stock loader looks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.fx import GraphModule

from shoal.architectures.huggingface import owner_of
from shoal.architectures.pretrained import is_stock
from shoal.architectures.skeletons import difference_of, skeleton
from shoal.architectures.stock import build_from_config, read_config, why_not_stock, write_config
from shoal.errors import ConfigError, PlanError, SurgeryError, UnitError
from shoal.plan import Plan, Remove
from shoal.surgery.record import read_record
from shoal.surgery.removal import remove_units
from shoal.units import Unit, ends_in_zeros

__all__ = ["FORMATS", "Format", "check_format", "format_of", "rebuild_original", "write_original"]

Format = Literal["auto", "torch"]
FORMATS: tuple[Format, ...] = ("auto", "torch")
ORIGINAL = "original"


def check_format(model: nn.Module, format: str, without: Iterable[Unit | Remove] = ()) -> None:
    """Check, best before long work is begun, that a network can be written in a format.

    Args:
        model: The network.
        format: `auto` or `torch`, as for `save`.
        without: Units that will be removed from it.

    Raises:
        ConfigError: If there is no such format.
        UnitError: If it is a Hugging Face model, and no stock loader would give what remains back.
    """
    if format not in FORMATS:
        raise ConfigError(f"asked to save in the format {format!r}: {' and '.join(FORMATS)} work.")
    if is_stock(model) and any(isinstance(part, GraphModule) for part in model.modules()):
        raise UnitError(
            f"asked to save {type(model).__name__}: convolutions inside of it were merged where its code "
            "could be followed, and neither a config nor shoal says so yet. Use it in memory, or export_onnx."
        )
    if format != "auto" or not is_stock(model):
        return
    parts = [unit for unit in without if ends_in_zeros(unit.outputs) and owner_of(model, unit.modules[0])]
    names = ", ".join(unit.modules[-1] for unit in parts[:3]) + (", …" if len(parts) > 3 else "")
    why = f"without parts of its layers ({names}) its config does not describe it" if parts else ""
    if why := why or why_not_stock(model):
        raise UnitError(
            f"asked to save {type(model).__name__} as a Hugging Face folder: {why}. A stock loader would "
            'draw weights at random there. Write it with format="torch" (--format torch), which shoal.load '
            "reads, or remove whole layers (granularity block)."
        )


def format_of(folder: Path) -> Format:
    """Return in which format a folder that shoal wrote is to be written again."""
    return "torch" if (folder / ORIGINAL).is_dir() else "auto"


def write_original(
    model: nn.Module, folder: Path, plan: Plan | None, source: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Write the config that a model of transformers is built again from, and return the plans that make
    the model of what it builds, as JSON values.

    Args:
        model: The model.
        folder: The folder that is being written.
        plan: What was removed from the original.
        source: Where the original came from; a folder of this kind hands on its own config and plans.

    Raises:
        ConfigError: If no config and plans at hand make this model.
    """
    found = ""
    for config, plans in _histories(model, plan, source):
        found = _gap(model, config, plans)
        if not found:
            write_config(model, config, folder / ORIGINAL)
            return [json.loads(each.to_json()) for each in plans]
    needed = "the plan at hand does not make it" if plan else "no plan says how it was made"
    raise ConfigError(
        f"asked to save {type(model).__name__} for shoal to load: its config alone does not build it "
        f"({found}), and {needed}. Pass plan=, the one that was applied to the original."
    )


def _histories(
    model: nn.Module, plan: Plan | None, source: Mapping[str, Any] | None
) -> Iterator[tuple[Any, list[Plan]]]:
    """Configs, and the plans that may have made the model of what they build; likely ones first."""
    last = [] if plan is None else [plan]
    yield from ((model.config, plans) for plans in ([], last)[: 1 + len(last)])
    origin = Path(str((source or {}).get("reference"))).expanduser()
    if (source or {}).get("kind") == "shoal" and (origin / ORIGINAL).is_dir():
        config, earlier = read_config(origin / ORIGINAL), _plans(read_record(origin))
        yield from ((config, plans) for plans in ([*earlier, *last], earlier))


def _gap(model: nn.Module, config: Any, plans: Sequence[Plan]) -> str:
    """In what the model differs from what the plans make of the config."""
    built = skeleton(type(model), config)
    if built is None:
        return "it cannot be built without weights"
    try:
        for plan in plans:
            built = remove_units(built, plan)
    except (PlanError, UnitError, SurgeryError) as error:
        return str(error)
    return difference_of(model, built)


def rebuild_original(
    folder: Path, record: Mapping[str, Any], *, trust_remote_code: bool = False
) -> nn.Module | None:
    """Return the network that a folder's config and plans make; None where it has no config.

    Raises:
        ConfigError: If the config cannot be built.
        PlanError: If a plan does not fit it.
    """
    if not (folder / ORIGINAL).is_dir():
        return None
    model = build_from_config(folder / ORIGINAL, trust_remote_code=trust_remote_code)
    for plan in _plans(record):
        model = remove_units(model, plan)
    return model


def _plans(record: Mapping[str, Any]) -> list[Plan]:
    return [Plan.from_json(json.dumps(fields)) for fields in record.get("replay") or []]
