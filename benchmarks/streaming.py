"""Evidence read layer by layer from a checkpoint, beside the pass over the whole model: peak memory and time.

The checkpoint is a random Llama in several shards, made in the cache folder where it is not there. All
ways run in processes of their own, in turns, on the same random tokens: layer by layer with gradients and
without, and the whole model. Each is timed from the folder to the evidence, and without opening it. Memory
is the most that a process ever held, Python and the libraries with it.

    python benchmarks/streaming.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from inputs import CACHE
from reporting import report
from synthetic import VOCABULARY, write_llama

from shoal.architectures import example_for
from shoal.architectures.layerwise import LayerwiseModel
from shoal.architectures.references import load_model
from shoal.importance import EvidenceSettings, StreamSettings, stream_evidence
from shoal.measurement import count_params
from shoal.stages import analyze

MEMORY_BAR, TIME_BAR = 500e6, 1.5
WAYS = ("streamed", "forward", "whole")


def main() -> None:
    """Run all ways in turns and report."""
    options = parse()
    folder = CACHE / f"llama-{options.gigabytes:g}GB"
    if not (folder / "config.json").is_file():
        write_llama(folder, options.gigabytes)
    if options.way:
        print(json.dumps(run(options, folder)))
        return
    rounds = [{way: measured(way) for way in WAYS} for _ in range(options.rounds)]
    report("streaming", figures(options, folder, rounds), options.output)


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.2)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=float, default=2.0, help="gigabytes of activations in memory")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output")
    return parser.parse_args()


def measured(way: str) -> dict[str, Any]:
    """Return what one way costs, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Collect the evidence in this process and return what it cost."""
    before = time.perf_counter()
    shape, generator = (options.samples, options.length), torch.Generator().manual_seed(0)
    tokens = torch.randint(VOCABULARY, shape, generator=generator)
    batches = [{"input_ids": ids} for ids in tokens.split(options.batch_size)]
    imported = peak_memory()
    if options.way == "whole":
        source: Any = load_model(str(folder)).model
        opened = time.perf_counter()
        evidence = analyze(source, batches, example=example_for(source))
    else:
        source = LayerwiseModel(folder)
        opened = time.perf_counter()
        settings = EvidenceSettings(gradients=options.way == "streamed")
        stream = StreamSettings(memory=options.memory)
        evidence = stream_evidence(source, batches, settings=settings, stream=stream)
    after = time.perf_counter()
    scores = {name: values.tolist() for name, values in evidence.importance.items()}
    return {
        "seconds": after - before,
        "pass_seconds": after - opened,
        "peak_bytes": peak_memory(),
        "imported_bytes": imported,
        "loss": evidence.data["loss"],
        "scores": scores,
    }


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024


def figures(options: argparse.Namespace, folder: Path, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all rounds, and whether they meet the bars."""
    parts = sizes(options, folder)
    peaks = {way: max(each[way]["peak_bytes"] for each in rounds) for way in WAYS}
    # What goes back through a layer holds its gradients, too.
    needed = {"forward": sum(parts.values()), "streamed": sum(parts.values()) + parts["layer_bytes"]}
    beyond = {way: peaks[way] - needed[way] for way in needed}
    ratios = {
        name: statistics.median(each["streamed"][name] / each["whole"][name] for each in rounds)
        for name in ("seconds", "pass_seconds")
    }
    return {
        "checkpoint": {
            "gigabytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9,
            "shards": len(list(folder.glob("*.safetensors"))),
        },
        "data": {"samples": options.samples, "length": options.length, "batch_size": options.batch_size},
        "memory": {
            **parts,
            "peak_bytes": peaks,
            "libraries_bytes": max(each["streamed"]["imported_bytes"] for each in rounds),
            "beyond_bytes": beyond,
            "bar_bytes": MEMORY_BAR,
            "met": max(beyond.values()) <= MEMORY_BAR,
        },
        "time": {
            "ratio_from_folder_to_evidence": ratios["seconds"],
            "ratio_without_opening": ratios["pass_seconds"],
            "bar": TIME_BAR,
            "met": ratios["pass_seconds"] <= TIME_BAR,
        },
        "largest_relative_difference_of_scores": max(map(difference, rounds)),
        "rounds": [{way: summary(each[way]) for way in WAYS} for each in rounds],
    }


def sizes(options: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Return bytes of what has to be in memory: what is in no layer, a layer, and the hidden states."""
    model = LayerwiseModel(folder).model
    config, item = model.config, model.dtype.itemsize
    layer = count_params(model.model.layers[0])
    outside = count_params(model) - config.num_hidden_layers * layer
    states = options.samples * options.length * config.hidden_size * (config.num_hidden_layers + 1)
    return {
        "outside_bytes": outside * item,
        "layer_bytes": layer * item,
        "activations_bytes": states * item,
    }


def difference(each: dict[str, Any]) -> float:
    """Return by how much a score differs at most, relative to the largest of its kind."""
    pairs = ((each["streamed"]["scores"][name], values) for name, values in each["whole"]["scores"].items())
    return max(
        max(abs(found - wanted) for found, wanted in zip(ours, theirs, strict=True)) / max(map(abs, theirs))
        for ours, theirs in pairs
    )


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return what one run cost."""
    return {name: value for name, value in found.items() if name != "scores"}


if __name__ == "__main__":
    main()
