"""What the user types for MODEL → the model, and the note from which it can be built again."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from shoal.architectures.functions import HOW_TO_BUILD, file_hash, model_from_file, model_from_package
from shoal.architectures.libraries import model_from_library
from shoal.architectures.origins import check_file, located
from shoal.architectures.pretrained import find_gguf, read_pretrained, read_tokenizer
from shoal.errors import ConfigError, ShoalWarning

__all__ = ["LoadedModel", "dtype_named", "load_model", "rebuild"]

FORMS = (
    "a local Hugging Face folder or an id on its hub; a folder that shoal wrote; timm:NAME; "
    "torchvision:NAME; diffusers:FOLDER; file.py:function or package.module:function returning a "
    "torch.nn.Module"
)
_LIBRARIES = ("timm", "torchvision", "diffusers")


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and where it came from.

    Attributes:
        model: The network, in evaluation mode.
        source: JSON values from which `rebuild` builds the same architecture again: `reference` as it
            was typed, `kind`, `sha256` of the file for networks that a file builds, and `original`, the
            same of another model, for a folder that was said to be made of it.
        folder: The local folder that it was read from; None where there is none.
    """

    model: nn.Module = field(hash=False)
    source: Mapping[str, Any] = field(hash=False)
    folder: Path | None = None

    def load_tokenizer(self) -> Any:
        """Return the tokenizer that comes with the model; None where none does."""
        if self.source["kind"] not in ("huggingface", "shoal"):
            return None
        place = self.folder or str(self.source["reference"])
        return read_tokenizer(place, gguf=self.source.get("gguf"))


def load_model(
    reference: str,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    original: str | None = None,
) -> LoadedModel:
    """Return the model that the user named.

    Args:
        reference: As in `FORMS`.
        dtype: Of the weights, such as `torch.bfloat16` or `"bfloat16"`; None for their own.
        device: Where the model goes.
        trust_remote_code: Whether code that comes with a Hugging Face model may run.
        original: What the network of a folder that shoal wrote was made of, in the same forms; where it is
            None, what the folder itself says.

    Raises:
        ConfigError: If there is no such model, or it cannot be read; the forms that work are named.
        MissingExtraError: If the library that it comes from is not installed.
    """
    wanted = dtype_named(dtype)
    source = _source(reference)
    if original is not None:
        if source["kind"] != "shoal":
            raise ConfigError(
                f"asked for {reference!r}, made of the original {original!r}: it is no folder that shoal "
                "wrote of a network of one's own. Leave the original out."
            )
        source["original"] = _source(original)
    if source["kind"] == "huggingface":
        model = _read(source, dtype=wanted, trust_remote_code=trust_remote_code)
    else:
        model = _build(source, weights=True, trust_remote_code=trust_remote_code)
        model = model if wanted is None else model.to(wanted)
    folder = Path(reference).expanduser()
    return LoadedModel(
        model=model.to(device).eval(), source=source, folder=folder if folder.is_dir() else None
    )


def rebuild(
    source: Mapping[str, Any], *, folder: Path | None = None, trust_remote_code: bool = False
) -> nn.Module:
    """Return a network of the architecture that a saved folder notes; its weights are of no matter.

    Args:
        source: What `LoadedModel.source` said, or `origins.noted` made of it.
        folder: The folder that it stands in; None where it stands in none.
        trust_remote_code: Whether functions of packages other than shoal may be called.

    Raises:
        ConfigError: If it cannot be built: it is gone, its file has changed, or it is not trusted.
    """
    written = source
    source = located(source, folder) if folder is not None else dict(source)
    kind, reference = source.get("kind"), str(source.get("reference"))
    if kind == "file":
        check_file(written, folder, source)
        if reference != str(written.get("reference")) and not trust_remote_code:
            raise ConfigError(
                f"asked to build the model {written.get('reference')!r} again: it is not there, but "
                f"{reference.rpartition(':')[0]} is, which the folder leads to. Allow it to run with "
                f"trust_remote_code (--trust-remote-code), or name it: model=…, --original {reference}."
            )
    elif (
        kind == "import"
        and reference.partition(":")[0].partition(".")[0] != "shoal"
        and not trust_remote_code
    ):
        raise ConfigError(
            f"asked to build the model {reference!r} again: it would run code of a package that a file "
            f"names. {HOW_TO_BUILD} Or allow it with trust_remote_code."
        )
    try:
        if kind == "huggingface":
            return _read(source, dtype=None, trust_remote_code=trust_remote_code)
        return _build(source, weights=False, trust_remote_code=trust_remote_code)
    except ConfigError as error:
        advice = "" if HOW_TO_BUILD in str(error) else f" {HOW_TO_BUILD}"
        raise ConfigError(f"{error}{advice}") from error


def _source(reference: str) -> dict[str, Any]:
    """Which form a reference has, with what is needed to build it again."""
    note: dict[str, Any] = {"reference": reference}
    library, _, name = reference.partition(":")
    if library in _LIBRARIES and name:
        return note | {"kind": "library"}
    path = Path(reference).expanduser()
    if reference and path.is_dir():
        return note | _folder_kind(path)
    if path.is_file():
        raise ConfigError(f"asked for the model {reference!r}: that is a file. Forms that work: {FORMS}.")
    if re.fullmatch(r".+\.py:\w+", reference):
        file = Path(reference.rpartition(":")[0]).expanduser()
        if not file.is_file():
            raise ConfigError(f"asked for the model {reference!r}: there is no file {file}.")
        return note | {"kind": "file", "sha256": file_hash(file)}
    if re.fullmatch(r"[A-Za-z_][\w.]*:\w+", reference):
        return note | {"kind": "import"}
    if re.fullmatch(r"[\w][\w.-]*(/[\w.-]+)?", reference):
        return note | {"kind": "huggingface", "hub": True}
    raise ConfigError(_not_found(reference, "there is no such folder"))


def _folder_kind(folder: Path) -> dict[str, Any]:
    config, gguf = folder / "config.json", find_gguf(folder)
    fields: Any = {}
    if config.is_file():
        try:
            fields = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(
                f"asked for the model {str(folder)!r}: its config.json is no JSON ({error})."
            ) from error
    if isinstance(fields, dict) and fields.get("model_type"):
        return {"kind": "huggingface"} | ({"gguf": gguf} if gguf else {})
    if (folder / "shoal.json").is_file():
        return {"kind": "shoal"}
    if gguf:
        return {"kind": "huggingface", "gguf": gguf}
    if isinstance(fields, dict) and fields.get("_class_name"):
        raise ConfigError(
            f"asked for the model {str(folder)!r}: it is of diffusers. Write diffusers:{folder}."
        )
    raise ConfigError(
        f"asked for the model {str(folder)!r}: the folder holds neither a config.json of Hugging Face nor "
        f"a shoal.json nor one .gguf file. Forms that work: {FORMS}."
    )


def _read(source: Mapping[str, Any], *, dtype: torch.dtype | None, trust_remote_code: bool) -> nn.Module:
    reference = str(source["reference"])
    folder = Path(reference).expanduser()
    try:
        found = read_pretrained(
            folder if folder.is_dir() else reference,
            dtype=dtype,
            gguf=source.get("gguf"),
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(_not_found(reference, str(error).strip().split("\n")[0])) from error
    random = found.faults["missing_keys"] + found.faults["mismatched_keys"]
    if random:
        warnings.warn(
            f"{len(random)} weights of {reference} are not in its files and were drawn at random: "
            f"{', '.join(random[:4])}{', …' if len(random) > 4 else ''}.",
            ShoalWarning,
            stacklevel=3,
        )
    return found.model


def _build(source: Mapping[str, Any], *, weights: bool, trust_remote_code: bool) -> nn.Module:
    reference = str(source["reference"])
    head, _, tail = reference.partition(":")
    if source["kind"] == "library":
        return model_from_library(head, tail, weights=weights)
    if source["kind"] == "file":
        file, _, function = reference.rpartition(":")
        return model_from_file(Path(file).expanduser(), function)
    if source["kind"] == "import":
        return model_from_package(head, tail)
    if source["kind"] == "shoal":
        # Reading such a folder takes surgery, which stands above: the public name is the way there.
        from shoal import load

        folder, original = Path(reference).expanduser(), source.get("original")
        if original is None:
            return load(folder, trust_remote_code=trust_remote_code)
        # What the user has just typed may run.
        trusted = trust_remote_code or (weights and original["kind"] == "import")
        build = partial(rebuild, original, trust_remote_code=trusted)
        return load(folder, model=build, trust_remote_code=trust_remote_code)
    raise ConfigError(f"asked to build a model from the note {dict(source)!r}: this shoal does not know it.")


def dtype_named(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the dtype of this name; None for None.

    Raises:
        ConfigError: If it is no floating-point dtype.
    """
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"asked for the dtype {dtype!r}: float32, float64, bfloat16 and float16 work.")
    return found


def _not_found(reference: str, reason: str) -> str:
    return (
        f"asked for the model {reference!r}: it cannot be found or read ({reason}). Forms that work: {FORMS}."
    )
