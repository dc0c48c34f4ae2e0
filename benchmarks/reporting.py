"""What every benchmark says beside its numbers: machine, versions, command; and where it writes them."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

import shoal
from shoal.measurement import describe_device

RESULTS = Path(__file__).resolve().parent / "results"


def report(name: str, figures: dict[str, Any], output: str | None = None) -> None:
    """Print the figures as JSON with the machine they were taken on, and write them to a file."""
    whole = {
        "benchmark": name,
        "command": "python " + " ".join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": {
            "device": describe_device(torch.device("cpu")),
            "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "shoal": shoal.__version__,
        },
        **figures,
    }
    text = json.dumps(whole, indent=2)
    print(text)
    path = Path(output) if output else RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
