"""Work done by several processes at once, connected as a launcher connects them, and what each returns."""

from __future__ import annotations

import importlib.util
import inspect
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

__all__ = ["in_processes"]

SECONDS = 60


def in_processes(work: Callable[..., Any], *arguments: Any, count: int = 2) -> list[Any]:
    """Return what `work(number, *arguments)` returns in each process, or the error that it raises.

    Args:
        work: A function of a file, which is read again in every process.
        arguments: Plain data.
        count: How many processes.
    """
    context = multiprocessing.get_context("forkserver")
    # What takes long to import is imported once for all tests.
    context.set_forkserver_preload(["shoal.importance", "shoal.processes", "accelerate", "transformers"])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    place = (inspect.getfile(work), work.__name__)
    ends, processes = [], []
    for number in range(count):
        ours, theirs = context.Pipe(duplex=False)
        ends.append(ours)
        process = context.Process(target=_run, args=(theirs, number, count, port, place, arguments))
        processes.append(process)
        process.start()
        theirs.close()
    deadline = time.monotonic() + SECONDS
    try:
        return [_received(end, deadline) for end in ends]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _received(end: Any, deadline: float) -> Any:
    if not end.poll(max(0.0, deadline - time.monotonic())):
        return TimeoutError("it hangs")
    try:
        return end.recv()
    except EOFError:
        return ChildProcessError("it has gone without a word")


def _run(
    end: Any, number: int, count: int, port: int, place: tuple[str, str], arguments: tuple[Any, ...]
) -> None:
    import torch

    own = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in own.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        end.send(_function(*place)(number, *arguments))
    except Exception as error:  # noqa: BLE001  (whatever it is, the test is told)
        end.send(error)


def _function(file: str, name: str) -> Callable[..., Any]:
    spec = importlib.util.spec_from_file_location("work", file)
    if spec is None or spec.loader is None:
        raise ImportError(file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["work"] = module
    spec.loader.exec_module(module)
    return getattr(module, name)
