"""Options that several verbs share. Each verb takes the groups that it uses, and no others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from shoal.cli.command import Flag
from shoal.units import Granularity

__all__ = [
    "BatchOptions",
    "DataOptions",
    "ExampleOptions",
    "FormatOptions",
    "ModelOptions",
    "RunOptions",
    "SampleOptions",
    "UnitOptions",
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Every verb.

    Attributes:
        json: Print one JSON document to stdout, and nothing else there.
        config: A recipe: a YAML file of this verb's options; the command line overrides it.
        debug: Show where an error comes from.
    """

    json: bool = False
    config: Annotated[Path | None, Flag(metavar="RECIPE.yaml")] = None
    debug: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelOptions(RunOptions):
    """The network.

    Attributes:
        model: A Hugging Face folder or id, a folder that shoal wrote, timm:NAME, torchvision:NAME,
            diffusers:FOLDER, or file.py:function that returns a torch.nn.Module.
        device: cpu, cuda or cuda:1; a GPU where there is one.
        dtype: Of the weights: float32, bfloat16, float16 or float64; their own where it is not given.
        trust_remote_code: Run code that comes with a Hugging Face model.
        original: What the network of a folder that shoal wrote was made of, such as net.py:make, where
            the folder does not say it or it has moved.
    """

    model: Annotated[str, Flag(positional=True, metavar="MODEL")]
    device: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    original: Annotated[str | None, Flag(metavar="MODEL")] = None


@dataclass(frozen=True, kw_only=True)
class UnitOptions:
    """What a unit is.

    Attributes:
        granularity: block; sublayer for attention and MLP alone where blocks consist of them; or layer
            for the convolutions that layermerge, layer_only and depth_merge work on, as they always do.
    """

    granularity: Granularity = "block"


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """How a network is written.

    Attributes:
        format: auto writes a folder that stock loaders read where the network is of Hugging Face; torch
            one that only shoal reads, which Hugging Face models without some sublayers need.
    """

    format: Literal["auto", "torch"] = "auto"


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How a sample is made of text or pixels.

    Attributes:
        seq_len: Tokens in a window of text; 512.
        image_size: Side in pixels that image files are scaled and cropped to.
        crop: Share of the scaled image that the centre crop keeps, such as 0.875.
        mean: Subtracted from pixels in [0, 1], a number a channel, such as 0.485,0.456,0.406.
        std: What pixels are divided by after that, a number a channel.
        channels: 3 for colour, 1 for grey.
    """

    seq_len: int | None = None
    image_size: int | None = None
    crop: float | None = None
    mean: Annotated[str | None, Flag(metavar="R,G,B")] = None
    std: Annotated[str | None, Flag(metavar="R,G,B")] = None
    channels: int | None = None


@dataclass(frozen=True, kw_only=True)
class BatchOptions(SampleOptions):
    """How data is cut into batches.

    Attributes:
        batch_size: Samples in a batch; 64 for images, 4 for text.
        num_samples: How many samples of DATA are used; all where it is not given.
        seed: Decides which samples are drawn, and all else that is drawn at random.
    """

    batch_size: int | None = None
    num_samples: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DataOptions(BatchOptions):
    """Data.

    Attributes:
        data: A .txt or .jsonl of text, a folder of images with a subfolder a class, an .npz, hf:NAME,
            digits, topics, or file.py:function that returns batches.
    """

    data: str


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(SampleOptions):
    """The call that is counted, timed and compared.

    Attributes:
        data: Data whose first sample the network is run with; Hugging Face models need none.
        example_batch: Samples in the call whose MACs, latency and memory are measured.
    """

    data: str | None = None
    example_batch: int = 1
