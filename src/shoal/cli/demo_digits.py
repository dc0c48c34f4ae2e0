"""The demo on digits: train, compress to 0.6 of the latency, heal, verify, in about a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shoal.calling import Inputs, call
from shoal.cli.compress import report, sourced
from shoal.cli.console import note
from shoal.cli.demo_network import digits_resnet
from shoal.data import TensorBatches, load_data, read_digits
from shoal.pipeline import compress
from shoal.result import CompressionResult
from shoal.surgery import Verification, save_verified
from shoal.training import FitSettings, HealSettings, fit

__all__ = ["SOURCE", "run_digits_demo", "train_digits"]

SOURCE = {"kind": "import", "reference": "shoal.cli.demo_network:digits_resnet"}
BUDGET = "latency=0.6"
_SAMPLES = 64
_EPOCHS = 6
_HEAL_EPOCHS = 3
# Without it the network is so sure of itself that even held-out data looks memorised.
_SMOOTHING = 0.1


def run_digits_demo(
    folder: Path, *, overwrite: bool = False, seed: int = 0, as_json: bool = False, epochs: int = _EPOCHS
) -> None:
    """Train the network of the demo, compress it, heal it, and leave it in a verified folder.

    Args:
        folder: The folder to write.
        overwrite: Whether a folder of that name that shoal wrote may be replaced.
        seed: Of training and healing.
        as_json: Whether to print one JSON document in place of tables.
        epochs: Epochs of training.
    """
    with _one_thread():
        result, verification = _compressed(folder, overwrite=overwrite, seed=seed, epochs=epochs)
    report(result, verification, samples=_SAMPLES, as_json=as_json)
    note(f'load it again with shoal.load("{folder}")')


def _compressed(
    folder: Path, *, overwrite: bool, seed: int, epochs: int
) -> tuple[CompressionResult, Verification]:
    note("training a residual CNN of 14 blocks on scikit-learn's digits (train part)")
    model = train_digits(epochs=epochs, seed=seed)
    calibration, test = (
        load_data("digits:validation", batch_size=90),
        load_data("digits:test", batch_size=180),
    )
    example = next(iter(test.batches))[0][:_SAMPLES]
    note(f"compressing it with SGLP to {BUDGET}, chosen on the validation part")
    result = compress(
        model,
        calibration.batches,
        method="sglp",
        budget=BUDGET,
        example=example,
        heal=HealSettings(epochs=_HEAL_EPOCHS, seed=seed),
        heal_batches=_training_batches(seed + 1),
        evaluation=test.batches,
    )
    result = sourced(result, calibration)
    verification = save_verified(
        result.model,
        folder,
        example=example,
        overwrite=overwrite,
        plan=result.plan,
        source=SOURCE,
        evidence=result.evidence,
        before=result.before,
        after=result.after,
        extra={"seeds": {"seed": seed}, "data": {"evaluation": test.description}},
    )
    return result, verification


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small wait for other threads longer than they work, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_digits(*, epochs: int, seed: int) -> nn.Module:
    """Return the network of the demo, trained on the digits' train part."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = digits_resnet()
    fit(
        model,
        _training_batches(seed),
        FitSettings(epochs=epochs, lr=3e-3, seed=seed),
        objective=_smooth_loss,
    )
    return model.eval()


def _training_batches(seed: int) -> TensorBatches:
    images, labels = read_digits("train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return TensorBatches(images[order], labels[order], batch_size=64)


def _smooth_loss(model: nn.Module, inputs: Inputs, labels: Any) -> Tensor:
    return nn.functional.cross_entropy(call(model, inputs), labels, label_smoothing=_SMOOTHING)
