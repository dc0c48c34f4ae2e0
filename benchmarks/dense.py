"""Tune the trained ResNet-56 on JPEG-compressed CIFAR-10, so that it is at home in that domain.

    python benchmarks/dense.py          three epochs of 50,000 images, about 15 minutes on two cores

`benchmarks/compare.py resnet56` compares methods on this network: the published weights were trained
on lossless images and lose ten points on JPEG images. The weights go to `benchmarks/cache/`.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from inputs import CACHE, jpeg_cifar, trained_resnet56
from reporting import report
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images shifted by up to four pixels and mirrored at random."""
    padded = F.pad(images, (4, 4, 4, 4))
    top, left = (torch.randint(0, 9, (len(images),), generator=generator) for _ in range(2))
    rows = top[:, None] + torch.arange(32)
    columns = left[:, None] + torch.arange(32)
    numbers = torch.arange(len(images))[:, None, None]
    moved = padded[numbers, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], moved.flip(-1), moved)


@torch.no_grad()
def judged(model: torch.nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return loss and accuracy in evaluation mode."""
    model.eval()
    logits = torch.cat([model(images[i : i + 500]) for i in range(0, len(images), 500)])
    right = (logits.argmax(dim=1) == labels).float().mean()
    return {"loss": F.cross_entropy(logits, labels).item(), "accuracy": right.item()}


def main() -> None:
    """Tune, judge on the 10,000 test images before and after, and save the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--output", help="the JSON file; benchmarks/results/dense.json where it is left out")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = trained_resnet56()
    test = jpeg_cifar("test")
    before = judged(model, *test)
    print(before, flush=True)
    images, labels = jpeg_cifar("train")
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    steps = options.epochs * math.ceil(len(images) / 128)
    done, start = 0, time.perf_counter()
    for epoch in range(options.epochs):
        model.train()
        for numbers in torch.randperm(len(images), generator=generator).split(128):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * 0.5 * (1 + math.cos(math.pi * done / steps))
            loss = F.cross_entropy(model(augmented(images[numbers], generator)), labels[numbers])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
        print(epoch, judged(model, *test), f"{time.perf_counter() - start:.0f} s", flush=True)
    seconds = time.perf_counter() - start
    CACHE.mkdir(exist_ok=True)
    save_file(model.state_dict(), CACHE / "resnet56-jpeg.safetensors")
    figures = {
        "epochs": options.epochs,
        "lr": options.lr,
        "seconds": seconds,
        "test_before": before,
        "test": judged(model, *test),
    }
    report("dense", figures, options.output)


if __name__ == "__main__":
    main()
