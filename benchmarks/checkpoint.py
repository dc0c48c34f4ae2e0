"""What surgery on a checkpoint costs beside `cp` of the bytes that stay, and how much memory it takes.

    python benchmarks/checkpoint.py                    4.5 GB, a few minutes; needs four times as much disk
    python benchmarks/checkpoint.py --gigabytes 0.5    to try it

A random Llama is written in 8 files, a quarter of its layers is removed by `shoal apply` as users type it,
and the files that came out are copied by `cp`; the two take turns in one run. The same command on a tiny
Llama of as many layers says how much of the time is not the bytes. Ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from reporting import report
from synthetic import LAYERS, write_llama

from shoal import Plan, find_units
from shoal.surgery import build_skeleton

SHOAL = [sys.executable, "-m", "shoal"]


def run(command: list[str]) -> tuple[float, int]:
    """Return the seconds that a command takes and the bytes that it holds at most."""
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told)
        # What the system says afterwards includes the memory of the process that started the command.
        while process.poll() is None:
            peak = max(peak, held(process.pid))
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} failed: {told.read()}")
    return seconds, peak


def held(pid: int) -> int:
    """Return the bytes that a process has held at most so far; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def quarter(folder: Path) -> Path:
    """Write a plan that removes every fourth layer of a folder's network, and return its file."""
    example = {"input_ids": torch.arange(8)[None]}
    chain = find_units(build_skeleton(folder), example)
    path = folder.with_suffix(".plan.json")
    path.write_text(Plan.removing(chain, range(2, len(chain), 4)).to_json())
    return path


def clear(*folders: Path) -> None:
    """Remove folders and wait until the disk is at rest."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def compare(place: Path, gigabytes: float, rounds: int) -> dict[str, Any]:
    """Return seconds and memory of the surgery, and the seconds of `cp`, in turns."""
    whole, tiny = (
        write_llama(place / "whole", gigabytes, torch.bfloat16),
        write_llama(place / "tiny", 0.01, torch.bfloat16),
    )
    small, copied, tiny_small = (place / name for name in ("small", "copied", "tiny-small"))
    cut = [*SHOAL, "apply", str(whole), str(quarter(whole)), "-o", str(small), "--verify", "structure"]
    start = [*SHOAL, "apply", str(tiny), str(quarter(tiny)), "-o", str(tiny_small), "--verify", "structure"]
    seconds: dict[str, list[float]] = {name: [] for name in ("surgery", "start", "cp", "cp_sync")}
    peaks = []
    run(cut)
    kept = sum(path.stat().st_size for path in small.glob("*.safetensors"))
    for _ in range(rounds):
        clear(copied)
        seconds["cp"].append(run(["cp", "-r", str(small), str(copied)])[0])
        begun = time.perf_counter()
        os.sync()
        seconds["cp_sync"].append(seconds["cp"][-1] + time.perf_counter() - begun)
        clear(copied, small, tiny_small)
        seconds["start"].append(run(start)[0])
        taken, peak = run(cut)
        seconds["surgery"].append(taken)
        peaks.append(peak)
    typical = {name: median(values) for name, values in seconds.items()}
    verified = json.loads((small / "shoal.json").read_text())["verification"]["passed"]
    return {
        "source_bytes": sum(path.stat().st_size for path in whole.glob("*.safetensors")),
        "kept_bytes": kept,
        "layers": LAYERS,
        "seconds": seconds,
        "bytes_per_second": {name: kept / typical[name] for name in ("surgery", "cp", "cp_sync")},
        "throughput_ratio_whole_command": typical["cp"] / typical["surgery"],
        "throughput_ratio_moving": typical["cp"] / (typical["surgery"] - typical["start"]),
        "throughput_ratio_moving_to_synced_cp": typical["cp_sync"] / (typical["surgery"] - typical["start"]),
        "peak_bytes": max(peaks),
        "verified": verified,
    }


def main() -> None:
    """Run the comparison and print its figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4.5, help="of the weights before, in 10⁹ bytes")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--place", help="where the files go; a temporary folder where it is left out")
    parser.add_argument(
        "--output", help="the JSON file; benchmarks/results/checkpoint.json where it is left out"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.place) as place:
        figures = compare(Path(place), options.gigabytes, options.rounds)
    report("checkpoint", figures, options.output)


if __name__ == "__main__":
    main()
