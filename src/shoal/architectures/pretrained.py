"""How models of transformers are read and written: plain folders, stock classes, no code of others."""

from __future__ import annotations

import copy
import importlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal.architectures.huggingface import is_pretrained
from shoal.architectures.untrusted import file_inside
from shoal.errors import ConfigError, MissingExtraError

__all__ = [
    "Pretrained",
    "auto_class",
    "companions",
    "copy_companions",
    "dtype_of",
    "find_gguf",
    "forget_code_",
    "is_stock",
    "quiet",
    "read_pretrained",
    "read_tokenizer",
    "stock_class",
    "transformers_for",
    "write_pretrained",
]

# What a tokenizer, processor or generation needs is found by what it is not: weights, pickles, code.
_OTHERS = (
    *(".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ckpt"),
    *(".ot", ".tflite", ".pkl", ".pickle", ".index.json", ".py", ".pyc", ".so"),
)
# What describes the network as it was, or is written anew, or lists folders that are not copied.
_OWN = (
    "hf_quant_config.json",
    "quant_config.json",
    "quantize_config.json",
    "config.json",
    "adapter_config.json",
    "params.json",
    "modules.json",
    "shoal.json",
    "readme.md",
)
_TEMPLATES = "additional_chat_templates"
_LARGEST = 100_000_000
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
_PREFERRED = (
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForSeq2SeqLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForImageClassification",
    "AutoModel",
)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model as `from_pretrained` gave it, with what that said of its weights.

    Attributes:
        model: The model, in evaluation mode.
        faults: Names of weights that were missing, unexpected or of another shape, by kind; empty
            lists where all fits.
    """

    model: Any
    faults: Mapping[str, list[str]]


def transformers_for(purpose: str) -> Any:
    """Return the package transformers.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise MissingExtraError("transformers", extra="hf", purpose=purpose) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own bars and notes off the terminal; its errors still show."""
    logging = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def find_gguf(folder: Path) -> str | None:
    """Return the name of the folder's only `.gguf` file where it holds no safetensors, else None."""
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1 or any(folder.glob("*.safetensors")):
        return None
    return files[0].name


def auto_class(architecture: str) -> str:
    """Return the name of the stock `AutoModel…` that loads this class; empty where there is none.

    Example:
        >>> auto_class("LlamaForCausalLM")
        'AutoModelForCausalLM'
    """
    transformers_for("to load Hugging Face models")
    mappings = importlib.import_module("transformers.models.auto.modeling_auto")
    others = sorted(name for name in vars(mappings) if name.startswith("Auto"))
    for name in dict.fromkeys((*_PREFERRED, *others)):
        mapping = getattr(getattr(mappings, name, None), "_model_mapping", None)
        names = getattr(mapping, "_model_mapping", {}).values()
        if any(architecture == entry or architecture in entry for entry in names if entry):
            return name
    return ""


def is_stock(model: nn.Module) -> bool:
    """Return whether a stock `AutoModel…` loads a model of this class, with its own code or the hub's."""
    if not is_pretrained(model):
        return False
    kind = type(model)
    if kind.__module__.startswith("transformers."):
        return bool(auto_class(kind.__name__))
    return bool(getattr(model.config, "auto_map", None)) and kind.__module__.startswith(
        "transformers_modules."
    )


def read_pretrained(
    reference: str | Path, *, dtype: Any = None, gguf: str | None = None, trust_remote_code: bool = False
) -> Pretrained:
    """Return a model of transformers by the class that its config names.

    Args:
        reference: A folder, or an id on the hub.
        dtype: Of the weights; None for the dtype in which they were saved.
        gguf: Name of a GGUF file in the folder.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        MissingExtraError: If transformers is not installed.
        ConfigError: If transformers has no class of that name.
        OSError, ValueError, RuntimeError: What `from_pretrained` raises.
    """
    transformers = transformers_for("to load Hugging Face models")
    more: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf is not None:
        more["gguf_file"] = gguf
    with quiet():
        config = transformers.AutoConfig.from_pretrained(reference, **more)
        chosen = stock_class(transformers, config, reference, gguf=gguf, trust_remote_code=trust_remote_code)
        model, info = chosen.from_pretrained(
            reference, dtype="auto" if dtype is None else dtype, output_loading_info=True, **more
        )
    names = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return Pretrained(model=model, faults={name: sorted(map(str, info.get(name) or [])) for name in names})


def stock_class(
    transformers: Any, config: Any, reference: str | Path, *, gguf: str | None, trust_remote_code: bool
) -> Any:
    """Return the class of transformers that loads a model.

    Args:
        transformers: The package.
        config: The model's config.
        reference: What the user named, for messages.
        gguf: Name of a GGUF file in the folder.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ConfigError: If transformers has no class of the name that the config says.
    """
    remote = getattr(config, "auto_map", None) or {}
    if trust_remote_code and remote:
        for name in (*_PREFERRED, *remote):
            if name in remote and name.startswith("AutoModel"):
                return getattr(transformers, name)
    architectures = getattr(config, "architectures", None) or []
    if not architectures:
        return transformers.AutoModelForCausalLM if gguf else transformers.AutoModel
    found = getattr(transformers, architectures[0], None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise ConfigError(
            f"asked to load {str(reference)!r}: its config names the class {architectures[0]}, which "
            f"transformers {transformers.__version__} does not have. Install a version that has it"
            f"{', or allow its own code with trust_remote_code' if remote else ''}."
        )
    return found


def read_tokenizer(reference: str | Path, *, gguf: str | None = None, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer that comes with a model; None where none does.

    Raises:
        MissingExtraError: If transformers is not installed.
    """
    folder = Path(reference)
    if folder.is_dir() and gguf is None and not any((folder / name).exists() for name in _TOKENIZERS):
        return None
    transformers = transformers_for("to load tokenizers")
    more: dict[str, Any] = {} if gguf is None else {"gguf_file": gguf}
    with quiet():
        try:
            return transformers.AutoTokenizer.from_pretrained(
                reference, trust_remote_code=trust_remote_code, **more
            )
        except (OSError, ValueError, KeyError):
            if folder.is_dir():
                raise
            return None


def write_pretrained(model: nn.Module, folder: Path) -> None:
    """Write a transformers model as the plain folder that its stock class loads.

    The model stays as it is: `save_pretrained` runs on a shell that shares its weights.

    Raises:
        ConfigError: If adapters are attached: they would be written alone.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ConfigError(
            f"asked to save {type(model).__name__}: adapters are attached to it, and only they would be "
            "written. Merge them into the weights first."
        )
    shell = _shell(model)
    forget_code_(shell.config, type(model))
    with quiet():
        shell.save_pretrained(folder)


def forget_code_(config: Any, kind: type) -> None:
    """Drop where a config points to code of the model's own, for a class that is of transformers.

    Args:
        config: Changed in place, with the configs inside it.
        kind: The model's class.
    """
    if not kind.__module__.startswith("transformers."):
        return
    vars(config).pop("auto_map", None)
    for name in getattr(config, "sub_configs", None) or ():
        inner = getattr(config, name, None)
        if inner is not None:
            forget_code_(inner, kind)


def _shell(model: nn.Module) -> Any:
    """A copy that shares all weights and owns its config, without what a GGUF file left behind."""
    tensors = chain(model.parameters(), model.buffers())
    memo: dict[int, object] = {id(tensor): tensor for tensor in tensors}
    # Offloaded weights hang on hooks.
    hooks = [vars(module).get("_hf_hook") for module in model.modules()]
    memo |= {id(hook): hook for hook in hooks if hook is not None}
    shell: Any = copy.deepcopy(model, memo)
    quantizer = getattr(shell, "hf_quantizer", None)
    settings = getattr(shell.config, "quantization_config", None) or getattr(
        quantizer, "quantization_config", None
    )
    method = (
        settings.get("quant_method")
        if isinstance(settings, Mapping)
        else getattr(settings, "quant_method", "")
    )
    if str(getattr(method, "value", method)).lower() == "gguf":
        for holder, name in (
            (shell.config, "quantization_config"),
            (shell, "hf_quantizer"),
            (shell, "quantization_method"),
            (shell, "is_quantized"),
        ):
            if name in vars(holder):
                delattr(holder, name)
    return shell


def companions(folder: Path) -> list[str]:
    """Return the names of the files of a tokenizer, processor and generation that lie beside weights.

    These are its regular files below 100 MB that are no weights, no code, no config and no card, and the
    chat templates in a folder of their own.

    Raises:
        VerificationError: If one of them is a link that leads out of the folder, or nowhere.
    """
    names = [path.name for path in sorted(folder.iterdir()) if _is_companion(path)]
    templates = folder / _TEMPLATES
    if templates.is_symlink():
        file_inside(folder, _TEMPLATES)
    names += [f"{_TEMPLATES}/{path.name}" for path in sorted(templates.glob("*.jinja"))]
    return [name for name in names if _companion(folder, name).stat().st_size < _LARGEST]


def _is_companion(path: Path) -> bool:
    name = path.name.lower()
    if name.startswith(".") or name.endswith(_OTHERS) or name in _OWN or set(name) & set("\\:"):
        return False
    return path.is_file() or (path.is_symlink() and not path.exists())


def _companion(folder: Path, name: str) -> Path:
    path = folder / name
    return file_inside(path.parent, path.name)


def copy_companions(source: Path, folder: Path) -> list[str]:
    """Copy the tokenizer, processor and generation files of one model folder into another.

    Returns:
        Names of the files that were copied; those that the other folder has already are left.

    Raises:
        VerificationError: As `companions`.
    """
    copied = [name for name in companions(source) if not (folder / name).exists()]
    for name in copied:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(_companion(source, name), folder / name)
    return copied


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of the model's first floating-point parameter; float32 where it has none."""
    found = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(found, torch.float32)
