"""Networks to folders: safetensors and JSON, written whole or not at all, never pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import save_model
from torch import Tensor, nn

from shoal.architectures.bypassing import uncompiled
from shoal.architectures.origins import noted
from shoal.architectures.pretrained import (
    auto_class,
    copy_companions,
    dtype_of,
    is_stock,
    write_pretrained,
)
from shoal.calling import Inputs
from shoal.errors import SurgeryError
from shoal.plan import Plan
from shoal.result import Certificate, Evidence, Measurement
from shoal.surgery.card import model_card
from shoal.surgery.folders import written_whole
from shoal.surgery.hooks import check_writable
from shoal.surgery.originals import Format, check_format, write_original
from shoal.surgery.probe import write_probe
from shoal.surgery.record import PROBE, WEIGHTS, hashes, plain, share, versions, write_record

__all__ = ["Tokenizer", "save"]


class Tokenizer(Protocol):
    """What can write its own files into a folder."""

    def save_pretrained(self, folder: str | Path, /) -> Any:
        """Write them."""
        ...


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    plan: Plan | None = None,
    source: Mapping[str, Any] | None = None,
    evidence: Evidence | None = None,
    before: Measurement | None = None,
    after: Measurement | None = None,
    example: Inputs | None = None,
    tokenizer_from: str | Path | Tokenizer | None = None,
    overwrite: bool = False,
    format: Format = "auto",
    certificate: Certificate | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network as a folder, whole or not at all, and return the folder.

    Models of transformers become the plain folder that stock `AutoModel…from_pretrained` loads; other
    networks become `model.safetensors`, which `load` puts into the network that `source` and `plan`
    describe. Beside them stand `shoal.json`, a model card, and a probe where an example is given. What
    `torch.compile` has made is no part of a network's file: it is written as it is without.

    No config says that a layer has lost its attention or MLP. Such a model is written with the format
    `torch`: its weights, the original's config in a folder of its own, and the plan, of which `load`
    makes the network again without the original's weights.

    Args:
        model: The network; stays as it is.
        folder: Where to. It is written beside this name and renamed when it is complete.
        plan: What was removed from the original.
        source: How the original is built again, as `LoadedModel.source` says.
        evidence: What the choice rests on.
        before: Measurement of the original.
        after: Measurement of this network.
        example: What the forward takes; its answers are saved, so that `verify` needs no original.
        tokenizer_from: Folder to copy tokenizer and processor files from, or a tokenizer; the
            folder of `source` where there is one.
        overwrite: Whether a folder of that name, empty or written by shoal, may be replaced.
        format: `auto`, or `torch` for a folder that only `load` reads, of any network.
        certificate: Proof that merged convolutions are what was trained.
        extra: More fields for `shoal.json`, such as `seeds`; JSON values.

    Raises:
        ConfigError: If the folder exists and may not be replaced, adapters are attached, there is no
            such format, or the format is `torch` and the plan does not make the model of its config.
        UnitError: If it is a model of transformers that a stock loader would not give back.
        SurgeryError: If the weights cannot be written as safetensors.
        DataError: If the answers to the example are not finite.
    """
    target = Path(folder)
    with uncompiled(model) as model:
        check_format(model, format)
        pretrained = is_stock(model)
        stock = pretrained and format == "auto"
        check_writable(model, stock=stock)
        fields = {
            "plan": None if plan is None else json.loads(plan.to_json()),
            "source": None if source is None else noted(source, target),
            "evidence": None if evidence is None else evidence.as_json(),
            "before": None if before is None else before.as_json(),
            "after": None if after is None else after.as_json(),
            "certificate": None if certificate is None else certificate.as_json(),
            "verification": None,
            "seeds": {},
            "versions": versions(),
            **_described(model, stock),
            **(extra or {}),
        }
        with written_whole(target, overwrite=overwrite) as partial:
            if stock:
                write_pretrained(model, partial)
                _write_companions(partial, tokenizer_from, source)
            else:
                if pretrained:
                    fields["replay"] = write_original(model, partial, plan, source)
                    _write_companions(partial, tokenizer_from, source)
                _write_weights(model, partial / WEIGHTS)
            if example is not None:
                write_probe(model, example, partial / PROBE)
            record = plain(fields | {"hash": hashes(partial)})
            write_record(partial, record)
            (partial / "README.md").write_text(model_card(record), encoding="utf-8")
            share(partial)
    return target


def _described(model: nn.Module, stock: bool) -> dict[str, Any]:
    kind = type(model)
    return {
        "format": "huggingface" if stock else "safetensors",
        "class": f"{kind.__module__}.{kind.__qualname__ if '<' not in kind.__qualname__ else kind.__name__}",
        "auto_class": auto_class(kind.__name__) if stock else None,
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "params": sum(parameter.numel() for parameter in model.parameters()),
    }


def _write_companions(
    folder: Path, tokenizer_from: str | Path | Tokenizer | None, source: Mapping[str, Any] | None
) -> None:
    if tokenizer_from is None:
        if (source or {}).get("kind") != "huggingface":
            return
        tokenizer_from = Path(str((source or {})["reference"])).expanduser()
    if isinstance(tokenizer_from, (str, Path)):
        if Path(tokenizer_from).is_dir():
            copy_companions(Path(tokenizer_from), folder)
    else:
        tokenizer_from.save_pretrained(folder)


def _write_weights(model: nn.Module, path: Path) -> None:
    odd = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
    try:
        if odd:
            raise ValueError(f"{', '.join(odd)} is no tensor")
        save_model(model, str(path))
    except (RuntimeError, ValueError) as error:
        raise SurgeryError(
            f"asked to save {type(model).__name__}: its state cannot be written as safetensors ({error}). "
            "State must be tensors that share all of their memory or none."
        ) from error
