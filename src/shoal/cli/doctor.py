"""`shoal doctor`: what works on this machine, and what to install for the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from shoal import __version__
from shoal.cli.console import show_json, show_table
from shoal.cli.options import RunOptions

__all__ = ["EXTRAS", "Options", "run"]

EXTRAS = {
    "hf": ("transformers", "accelerate", "datasets"),
    "heal": ("accelerate", "peft"),
    "vision": ("timm", "torchvision", "PIL"),
    "diffusion": ("diffusers",),
    "eval": ("lm_eval",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "report": ("matplotlib", "jinja2"),
    "demo": ("sklearn", "accelerate"),
}
_PROJECTS = {"PIL": "pillow", "sklearn": "scikit-learn"}
_PURPOSES = {
    "hf": "Hugging Face models and data sets",
    "heal": "training after surgery",
    "vision": "models of timm and torchvision, image folders",
    "diffusion": "models of diffusers",
    "eval": "language-model benchmarks",
    "onnx": "export",
    "report": "figures and pages",
    "demo": "the demo and the digits",
}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """What `shoal doctor` takes."""


def run(options: Options) -> None:
    """Say what is installed, on which device it runs, what is missing, and what would help."""
    facts = {"shoal": __version__, "python": platform.python_version(), **_torch_facts()}
    extras = {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()}
    advice = [*_advice(facts, extras)]
    if options.json:
        show_json({**facts, "extras": extras, "advice": advice})
        return
    from shoal.reports import Table

    rows = tuple((name, str(value)) for name, value in facts.items())
    show_table(Table(title="This machine", columns=(("", False), ("", False)), rows=rows))
    show_table(
        Table(
            title="Extras",
            columns=(("extra", False), ("for", False), ("packages", False)),
            rows=tuple((extra, _PURPOSES[extra], _told(found)) for extra, found in extras.items()),
            notes=tuple(advice) or ("nothing to advise",),
        )
    )


def _torch_facts() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return facts | {"device": "cuda", "gpus": ", ".join(names)}
    return facts | {"device": "cpu"}


def _version(module: str) -> str | None:
    if find_spec(module) is None:
        return None
    try:
        return version(_PROJECTS.get(module, module))
    except PackageNotFoundError:
        return "unknown"


def _told(found: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {number or 'MISSING'}" for name, number in found.items())


def _advice(facts: dict[str, Any], extras: dict[str, dict[str, str | None]]) -> list[str]:
    advice = []
    missing = [extra for extra, found in extras.items() if None in found.values()]
    if missing:
        advice.append(f"for what is missing: pip install 'shoal[{','.join(missing)}]'")
    trap = _torchvision_trap()
    if trap:
        advice.append(trap)
    if facts["device"] == "cpu":
        advice.append("there is no GPU that torch can use: large models will be slow")
    return advice


def _torchvision_trap() -> str:
    """A torchvision that does not fit torch fails to import, and transformers' models with it."""
    if find_spec("torchvision") is None:
        return ""
    try:
        import_torchvision()
    except (RuntimeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        return (
            f"torchvision {_version('torchvision')} does not work with this torch ({reason}), and many "
            "models of transformers, peft and diffusers then fail to import too: uninstall torchvision, or "
            "install the build that belongs to this torch"
        )
    return ""


def import_torchvision() -> None:
    """Import torchvision, to see whether it can be."""
    from importlib import import_module

    import_module("torchvision")
