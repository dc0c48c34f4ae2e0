"""The tasks of the lm-evaluation-harness, run by its own package on a model in memory."""

from __future__ import annotations

import copy
import importlib
import logging
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from shoal.calling import evaluating
from shoal.errors import ConfigError, DataError, MissingExtraError
from shoal.measurement.losses import is_causal
from shoal.progress import task

__all__ = ["check_tasks", "evaluate_tasks"]

_BATCH = 8


def evaluate_tasks(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    batch_size: int | None = None,
) -> dict[str, float]:
    """Return how well a language model does at tasks of the lm-evaluation-harness.

    What a task measures, with which prompts and on which data, is lm-eval's own; it fetches the data
    of its tasks from the Hugging Face hub, and shows bars of its own.

    Args:
        model: A causal model of transformers; left as it was found.
        tokenizer: Its tokenizer; left as it was found.
        tasks: Names, such as `arc_easy`, of tasks, groups and tags, or paths of task files in YAML.
        limit: How many documents of each task; all where it is None. For trying things out.
        num_fewshot: Examples before each question; what the task says where it is None.
        batch_size: Requests in a batch; 8 where it is None.

    Returns:
        Every metric as `task/metric`, with its standard error as `task/metric_stderr` where lm-eval
        gives one. A filter of answers other than lm-eval's `none` is named after the metric.

    Raises:
        MissingExtraError: If lm-eval is not installed.
        ConfigError: If the model is no causal language model, there is no tokenizer, a number is too
            small, or there is no such task.
        DataError: If the data of a task cannot be had.

    Reference: Gao et al., 2024, https://doi.org/10.5281/zenodo.12608602.
    """
    check_tasks(model, tokenizer, tasks, limit=limit, num_fewshot=num_fewshot)
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"asked for tasks with batch_size={batch_size}: at least 1 is needed.")
    harness, huggingface = map(importlib.import_module, ("lm_eval", "lm_eval.models.huggingface"))
    with evaluating(model), _undisturbed(), redirect_stdout(sys.stderr):
        manager, names = _find(tasks)
        wrapped = huggingface.HFLM(
            pretrained=model,
            # It is given a token for padding.
            tokenizer=copy.deepcopy(tokenizer),
            backend="causal",
            batch_size=batch_size or _BATCH,
        )
        try:
            found = harness.simple_evaluate(
                wrapped,
                tasks=names,
                task_manager=manager,
                limit=limit,
                num_fewshot=num_fewshot,
                log_samples=False,
            )
        except OSError as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(
                f"asked for the tasks {', '.join(names)}: their data cannot be had ({reason}). "
                "Go online once, or name a task file whose data is here."
            ) from error
    return _flat(found["results"])


def check_tasks(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
) -> None:
    """Check, before long work is begun, that a model can be judged by tasks of lm-eval.

    Raises:
        MissingExtraError: If lm-eval is not installed.
        ConfigError: If the model is no causal language model, there is no tokenizer, no task is
            named, or a number is too small.
    """
    try:
        importlib.import_module("lm_eval")
    except ImportError as error:
        raise MissingExtraError("lm-eval", extra="eval", purpose="to run its tasks") from error
    if not tasks:
        raise ConfigError("asked for tasks and named none: name at least one, such as arc_easy.")
    if is_causal(model) is not True:
        raise ConfigError(
            f"asked for tasks with {type(model).__name__}: it is no causal language model of transformers, "
            "and only those are judged by tasks."
        )
    if tokenizer is None:
        raise ConfigError(
            "asked for tasks: their texts need the model's tokenizer, and the model came without one. Put "
            "the tokenizer's files into the model's folder."
        )
    for name, value, least in (("limit", limit, 1), ("num_fewshot", num_fewshot, 0)):
        if value is not None and value < least:
            raise ConfigError(f"asked for tasks with {name}={value}: at least {least} is needed.")


def _find(tasks: Sequence[str]) -> tuple[Any, list[str]]:
    """Return lm-eval's index of tasks, and the names of those that are wanted."""
    with task("reading the list of tasks"):
        # Its own tasks are thousands of files, which task files can do without.
        known = not all(Path(name).is_file() for name in tasks)
        manager = importlib.import_module("lm_eval.tasks").TaskManager(include_defaults=known)
    names: dict[str, None] = {}
    for name in tasks:
        matching = [name] if Path(name).is_file() else manager.match_tasks([name])
        if not matching:
            near = ", ".join(get_close_matches(name, manager.all_tasks, n=3, cutoff=0.0))
            raise ConfigError(
                f"asked for the task {name!r}: lm-eval has none of that name, and there is no such file. "
                f"Near: {near}."
            )
        names |= dict.fromkeys(matching)
    return manager, list(names)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep lm-eval's notes off the terminal, and its seeds from the caller's random numbers."""
    logger = logging.getLogger("lm_eval")
    level, drawn, array_drawn = logger.level, random.getstate(), np.random.get_state()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        random.setstate(drawn)
        np.random.set_state(array_drawn)


def _flat(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return `{"acc_stderr,none": …}` of every task under names of one kind."""
    figures = {}
    for name, metrics in results.items():
        for key, value in metrics.items():
            metric, comma, sieve = key.partition(",")
            if not comma or not isinstance(value, (int, float)):
                continue
            end = "_stderr" if metric.endswith("_stderr") else ""
            kind = "" if sieve == "none" else f"/{sieve}"
            figures[f"{name}/{metric.removesuffix('_stderr')}{kind}{end}"] = float(value)
    return figures
