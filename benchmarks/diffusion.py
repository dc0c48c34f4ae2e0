"""A diffusion U-Net that is trained here and made shallower by merging its convolutions.

    python benchmarks/diffusion.py      about a quarter of an hour on one core, six minutes of it for training

The U-Net of `examples/diffusion_unet.py` learns MNIST, 14 × 14 pixels within 16 × 16, on 55,000 training
images. 1,000 others choose; all are judged by the mean squared error of the noise (the ε-loss) in 2,000
test images, at time steps and with noise that are the same for all. Healing takes as many steps for all,
the original too. What the original draws, and what LayerMerge's networks draw from the same noise, is shown
in `docs/pictures/diffusion.png`.

A second network, the trained noise predictor of the assets, has layer norms over whole maps behind its
convolutions; what LayerMerge finds there is told beside.

What takes long is kept in `benchmarks/cache/`, so that a run that stopped goes on.
"""

from __future__ import annotations

import argparse
import gzip
import math
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from inputs import CACHE, ROOT, assets
from PIL import Image
from reporting import report
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(ROOT / "examples"))

from diffusion_unet import STEPS, draw, noisy, unet

import shoal
from shoal.errors import BudgetError
from shoal.journal import Journal
from shoal.measurement import measure_latency
from shoal.measurement.quality import SampleLosses, evaluate_samples, paired_difference
from shoal.training import HealSettings, heal

WEIGHTS = CACHE / "diffusion-unet.safetensors"
JOURNAL = CACHE / "diffusion.jsonl"
# Tuning the network for every entry would take an hour.
QUICK = {"importance": {"form": "reconstruction"}}
PICTURE = ROOT / "docs" / "pictures" / "diffusion.png"
BATCH = 64
METHODS = ("layermerge", "layer_only", "depth_merge")
BUDGETS = ("latency=0.75", "latency=0.6")
PREDICTOR_BUDGETS = ("latency=0.85", "latency=0.6")

Batches = list[tuple[tuple[Tensor, Tensor], Tensor]]
Models = dict[str, nn.Module]
Known = dict[str, Any]


def mnist(part: str) -> Tensor:
    """Return MNIST's images `(N, 1, 28, 28)`, from 0 to 1; `part` is `train` or `t10k`."""
    packed = (assets() / "mnist" / f"{part}-images-idx3-ubyte.gz").read_bytes()
    pixels = np.frombuffer(gzip.decompress(packed), dtype=np.uint8, offset=16)
    return torch.from_numpy(pixels.reshape(-1, 1, 28, 28).copy()).float() / 255


def small(images: Tensor) -> Tensor:
    """Return images of 28 × 28 pixels halved, within 16 × 16, from -1 to 1."""
    return F.pad(F.avg_pool2d(images, 2), (1, 1, 1, 1)) * 2 - 1


def noised(images: Tensor, *, size: int, seed: int) -> Batches:
    """Return batches `((x_t, t), noise)`; the time steps are spread evenly over the images."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randperm(len(images), generator=generator) * STEPS // len(images)
    noise = torch.randn(images.shape, generator=generator)
    parts = (tensor.split(size) for tensor in (noisy(images, t, noise), t, noise))
    return [((x, steps), target) for x, steps, target in zip(*parts, strict=True)]


def noise_loss(predicted: Tensor, noise: Tensor) -> Tensor:
    """Return the mean squared error of every image's noise, `(B,)`."""
    return (predicted - noise).square().mean(dim=(1, 2, 3))


def trained(steps: int) -> tuple[nn.Module, dict[str, float]]:
    """Return the U-Net with the moving average of its trained weights, and how it was trained."""
    if not WEIGHTS.is_file():
        train(steps)
    with safe_open(WEIGHTS, "pt") as file:
        told = {name: float(value) for name, value in file.metadata().items()}
    model = unet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval(), told


def train(steps: int, lr: float = 2e-3) -> None:
    """Train the U-Net and keep the moving average of its weights."""
    torch.manual_seed(0)
    begun = time.perf_counter()
    images, model = small(mnist("train"))[:55_000], unet()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = images[torch.randint(len(images), (BATCH,))]
        t, noise = torch.randint(STEPS, (BATCH,)), torch.randn_like(chosen)
        loss = noise_loss(model(noisy(chosen, t, noise), t), noise).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if step % 100 == 99:
            print(step + 1, f"{loss.item():.4f}", f"{time.perf_counter() - begun:.0f} s", flush=True)
    told = {"steps": steps, "lr": lr, "seconds": time.perf_counter() - begun}
    CACHE.mkdir(exist_ok=True)
    save_file(average.module.state_dict(), WEIGHTS, {name: str(value) for name, value in told.items()})


class NoisePredictor(nn.Module):
    """The network of the trained weights `ddpm_mnist.pth`: layer norms over whole maps."""

    frequencies: Tensor

    def __init__(self, widths: tuple[int, ...] = (16, 32, 32, 16)) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.zeros(16))
        parts: list[nn.Module] = [
            nn.Sequential(nn.Conv2d(before, width, 7, padding=3), nn.LayerNorm((width, 28, 28)), nn.GELU())
            for before, width in pairwise((1, *widths))
        ]
        self.blocks = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 3, padding=1))
        sizes = (32, 128, 128, 128, widths[0])
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.GELU())]
        self.time_embed = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in images `(B, 1, 28, 28)` at time steps `(B,)`, counted from 0."""
        angles = (t[:, None] + 1) / STEPS * self.frequencies
        time = self.time_embed(torch.cat([angles.sin(), angles.cos() - 1], dim=1))
        first, *others = self.blocks
        x = first(x) + time[:, :, None, None]
        for block in others:
            x = block(x)
        return x


def noise_predictor() -> nn.Module:
    """Return the trained noise predictor of the assets."""
    stored = torch.load(assets() / "ddpm-mnist" / "ddpm_mnist.pth", weights_only=True, map_location="cpu")
    own = {name[3:].replace("net.", ""): value for name, value in stored.items() if name.startswith("gt.")}
    model = NoisePredictor()
    model.load_state_dict(own)
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network with its data: to choose by, to judge by, to heal on."""

    model: nn.Module
    choose: Batches
    judge: Batches
    train: Batches
    heal: HealSettings

    @property
    def example(self) -> tuple[Tensor, Tensor]:
        """What is timed: one batch."""
        return self.choose[0][0]

    def judged(self, model: nn.Module) -> SampleLosses:
        """Return the ε-losses of the images that judge."""
        return evaluate_samples(model, self.judge, loss=noise_loss)


def case_of(model: nn.Module, images: Tensor, judges: Tensor, *, steps: int, size: int, lr: float) -> Case:
    """Return a network with its data: the last 1,000 of the images choose, others heal."""
    return Case(
        model=model,
        choose=noised(images[-1000:], size=size, seed=1),
        judge=noised(judges, size=size, seed=2),
        train=noised(images[: steps * size], size=size, seed=3),
        heal=HealSettings(epochs=1, lr=lr),
    )


def loss_of(found: SampleLosses, whole: SampleLosses) -> dict[str, float | None]:
    """Return the ε-loss, and how much larger it is than the original's on the same images and noise."""
    added, error = paired_difference(found, whole)
    return {"loss": found.quality["loss"], "added": added, "added_se": error}


def compressed(case: Case, method: str, budget: str, whole: SampleLosses) -> tuple[nn.Module, Known]:
    """Return the network that a method makes within a budget, healed, and how it was made."""
    begun = time.perf_counter()
    result = shoal.compress(
        case.model,
        case.choose,
        method=method,
        budget=budget,
        example=case.example,
        loss=noise_loss,
        settings=QUICK,
        heal=case.heal,
        heal_batches=case.train,
        journal=Journal(JOURNAL),
    )
    seconds, plan = time.perf_counter() - begun, result.plan
    unhealed = case.judged(shoal.apply(case.model, plan))
    told = {
        "predicted": dict(plan.predicted),
        "convolutions": [convolutions(case.model), convolutions(result.model)],
        "macs": [result.before.macs, result.after.macs],
        "params": [result.before.params, result.after.params],
        "merges": {str(step.segment): list(step.kept) for step in plan.merges},
        "before_healing": loss_of(unhealed, whole),
        "healed": loss_of(case.judged(result.model), whole),
        "certificate": None if result.certificate is None else result.certificate.as_json(),
        "seconds": seconds,
    }
    return result.model, told


def convolutions(model: nn.Module) -> int:
    """Return the number of convolutions."""
    return sum(isinstance(module, nn.Conv2d) for module in model.modules())


def everything(case: Case, methods: tuple[str, ...], budgets: tuple[str, ...]) -> tuple[Models, Known]:
    """Return the networks by name, and what is known of them."""
    whole = case.judged(case.model)
    tuned = heal(case.model, case.train, settings=case.heal, loss=noise_loss)
    known: Known = {
        "original": dict(whole.quality),
        "original, tuned as long": loss_of(case.judged(tuned), whole),
    }
    models = {"original": case.model}
    for method in methods:
        for budget in budgets:
            name = f"{method} {budget}"
            try:
                models[name], known[name] = compressed(case, method, budget, whole)
            except BudgetError as error:
                known[name] = {"failed": str(error)}
            print(name, known[name], flush=True)
    timings = measure_latency(models, case.example)
    for name, timing in timings.items():
        known[name]["latency"] = timing.quickest
        known[name]["latency_share"] = timing.quickest / timings["original"].quickest
    return models, known


def sheet(models: list[nn.Module], *, rows: int = 8, scale: int = 3) -> tuple[Image.Image, list[Tensor]]:
    """Return the digits that networks draw from the same noise, side by side, and the digits."""
    noise = torch.randn((rows * rows, 1, 16, 16), generator=torch.Generator().manual_seed(4))
    drawn, gap = [draw(model, noise) for model in models], torch.ones(rows * 16 * scale, 12)
    parts = []
    for images in drawn:
        grid = images.view(rows, rows, 16, 16).transpose(1, 2).reshape(rows * 16, rows * 16)
        parts += [grid.repeat_interleave(scale, 0).repeat_interleave(scale, 1), gap]
    pixels = ((torch.cat(parts[:-1], dim=1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy()), drawn


def main() -> None:
    """Train, compress, judge, draw, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1500, help="of training, where there are no weights yet")
    parser.add_argument("--heal", type=int, default=150, help="steps of healing")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--output", help="the JSON file; benchmarks/results/diffusion.json otherwise")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    begun = time.perf_counter()
    model, training = trained(options.steps)
    images, judges = mnist("train"), mnist("t10k")
    judged = small(judges[:2000])
    case = case_of(model, small(images), judged, steps=options.heal, size=BATCH, lr=2e-3)
    models, known = everything(case, METHODS, BUDGETS)
    shown = ["original", *(f"layermerge {budget}" for budget in BUDGETS if f"layermerge {budget}" in models)]
    picture, drawn = sheet([models[name] for name in shown])
    PICTURE.parent.mkdir(exist_ok=True)
    picture.save(PICTURE, optimize=True)
    gaps = {name: F.mse_loss(each, drawn[0]).item() for name, each in zip(shown, drawn, strict=True)}
    half, judged = options.heal // 2, judges[:500] - 0.5
    other = case_of(noise_predictor(), images - 0.5, judged, steps=half, size=32, lr=5e-4)
    _, predictor = everything(other, ("layermerge",), PREDICTOR_BUDGETS)
    figures = {
        "training": training,
        "batch": BATCH,
        "heal_steps": options.heal,
        "unet": known,
        "drawn_difference": gaps,
        "noise_predictor": predictor,
        "seconds": time.perf_counter() - begun,
    }
    report("diffusion", figures, options.output)


if __name__ == "__main__":
    main()
