"""The model card: what a written folder tells people. Markdown from what `shoal.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["model_card"]


def model_card(record: Mapping[str, Any]) -> str:
    """Return the README of a written folder.

    Args:
        record: The fields of its `shoal.json`, as JSON values.
    """
    parts = [
        _front_matter(record),
        f"# {_class(record)}, made shallower",
        _removed(record.get("plan")),
        _table(record.get("before"), record.get("after")),
        _loading(record),
        "`shoal.json` in this folder holds the whole story: plan, evidence, measurements, versions and "
        "hashes of the weights. `shoal verify` checks that the folder still reproduces the network.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _class(record: Mapping[str, Any]) -> str:
    return str(record.get("class", "")).rpartition(".")[2] or "Network"


def _front_matter(record: Mapping[str, Any]) -> str:
    library = "transformers" if record.get("format") == "huggingface" else "pytorch"
    source = record.get("source") or {}
    # Only an id on the hub means anything to a reader on another machine.
    known = source.get("kind") == "huggingface" and source.get("hub")
    base = [f"base_model: {source['reference']}"] if known else []
    return "\n".join(["---", f"library_name: {library}", *base, "tags:", "- shoal", "- depth-pruning", "---"])


def _removed(plan: Mapping[str, Any] | None) -> str:
    if not plan:
        return "No plan was saved with this network: what was removed from it is not known here."
    names, steps = plan["model"]["units"], plan["steps"]
    if any(step["op"] == "merge" for step in steps):
        return _merged(plan)
    lines = ["## What was removed", ""]
    lines.append(
        f"{len(steps)} of {len(names)} units of {plan['model']['name']}, chosen {_chosen(plan)} "
        "(units are numbered from 0 in the original network)."
    )
    if "shortcuts" in (plan.get("settings") or {}):
        lines[-1] += (
            " Paths were added around its layers for training, and are folded into what is left; the units, "
            "their names and sizes are those of the network with these paths."
        )
    if steps:
        lines += ["", "| unit | module | parameters |", "| ---: | --- | ---: |"]
        sizes = plan["model"]["unit_params"]
        lines += [f"| {s['index']} | `{s['unit']}` | {sizes[s['index']]:,} |" for s in steps]
    return "\n".join(lines)


def _merged(plan: Mapping[str, Any]) -> str:
    """What became of segments of convolutions."""
    left = (plan.get("predicted") or {}).get("units")
    lines = ["## What was merged", ""]
    model = plan["model"]
    whole = f"{len(model['units'])} convolutions of {model['name']}"
    lines.append(
        f"Of the {whole}, projections on shortcuts aside, {left} are left, chosen {_chosen(plan)}. "
        "Layers are numbered from 0 in the original network, segments are half-open, and batch norms are "
        "folded."
    )
    lines += ["", "| layers | kept | become | activation added |", "| --- | --- | --- | --- |"]
    for step in plan["steps"]:
        kept = ", ".join(map(str, step["kept"])) or "none"
        left = "the identity" if not step["kept"] else "1 convolution" if step["fused"] else "as many"
        lines.append(f"| [{step['start']}, {step['stop']}) | {kept} | {left} | {step['added'] or '–'} |")
    return "\n".join(lines)


def _chosen(plan: Mapping[str, Any]) -> str:
    budget = plan.get("budget")
    if plan["method"] == "by hand":
        return "by hand"
    if not budget:
        return f"by {plan['method']}"
    limit = budget["limit"]
    share = f"{limit:g} of the original" if budget["relative"] else f"{limit:g}"
    return f"by {plan['method']} for the budget {budget['quantity']} = {share}"


def _table(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    if not before or not after:
        return "## Before and after\n\nNot measured."
    rows = [
        ("parameters", before["params"], after["params"], "{:,}"),
        ("MACs (multiply-accumulates)", before["macs"], after["macs"], "{:,}"),
        ("latency (s, median)", before.get("latency"), after.get("latency"), "{:.4g}"),
        ("peak memory (bytes)", before.get("memory"), after.get("memory"), "{:,}"),
    ]
    scores = (before.get("quality") or {}) | (after.get("quality") or {})
    for name in (each for each in scores if not each.endswith(("_low", "_high", "_se", "_stderr"))):
        old, new = (side.get("quality", {}).get(name) for side in (before, after))
        rows.append((name, old, new, "{:.4g}"))
    lines = ["## Before and after", "", "| | before | after | ratio |", "| --- | ---: | ---: | ---: |"]
    lines += [_row(*row) for row in rows]
    device = after.get("device")
    return "\n".join(lines + (["", f"Measured on: {device}."] if device else []))


def _row(name: str, old: float | None, new: float | None, form: str) -> str:
    shown = ["not measured" if value is None else form.format(value) for value in (old, new)]
    ratio = f"{new / old:.3f}" if old and new is not None else "–"
    return f"| {name} | {shown[0]} | {shown[1]} | {ratio} |"


def _loading(record: Mapping[str, Any]) -> str:
    if record.get("format") == "huggingface":
        auto = record.get("auto_class") or "AutoModel"
        code = f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained('path/to/this/folder')"
    else:
        known = (record.get("source") or {}).get("reference") or record.get("replay") is not None
        more = "" if known else ", model=build_original_network"
        code = f"import shoal\n\nmodel = shoal.load('path/to/this/folder'{more})"
    return f"## How to load it\n\n```python\n{code}\n```"
