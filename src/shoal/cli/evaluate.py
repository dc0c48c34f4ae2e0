"""`shoal evaluate`: how well a network does on data, in what it writes, and at tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

from shoal.cli.command import Flag, typed_name
from shoal.cli.console import show_json, show_table
from shoal.cli.loading import open_data, open_model
from shoal.cli.options import BatchOptions, DataOptions, ModelOptions
from shoal.errors import ConfigError

if TYPE_CHECKING:
    from shoal.architectures.references import LoadedModel
    from shoal.data import Data
    from shoal.measurement import Prompts

__all__ = ["Options", "run"]

_GENERATION = ("context", "continuation", "generate_samples", "reference")
_TASKS = ("task_limit", "num_fewshot")


@dataclass(frozen=True, kw_only=True)
class Options(BatchOptions, ModelOptions):
    """What `shoal evaluate` takes.

    Attributes:
        data: Data for loss and accuracy, or perplexity: a .txt or .jsonl of text, a folder of images
            with a subfolder a class, an .npz, hf:NAME, digits, topics, or file.py:function that
            returns batches.
        generate: What a language model is to write: a .jsonl of {"prompt", "answer"}, or any text, whose
            windows it continues.
        context: Tokens of a window that the model is given; 64.
        continuation: Tokens of a window that it should write; 8.
        generate_samples: How many prompts; all answers, or up to 256 windows.
        reference: The original, whose continuations are to be met beside the text's own.
        tasks: Tasks of lm-eval, such as arc_easy,hellaswag, or task files.
        task_limit: Documents of each task; all where it is not given.
        num_fewshot: Examples before each question of a task; the task's own number.
    """

    data: str | None = None
    generate: Annotated[str | None, Flag(metavar="FILE")] = None
    context: int | None = None
    continuation: int | None = None
    generate_samples: int | None = None
    reference: Annotated[str | None, Flag(metavar="MODEL")] = None
    tasks: Annotated[str | None, Flag(metavar="TASK,…")] = None
    task_limit: int | None = None
    num_fewshot: int | None = None


def run(options: Options) -> None:
    """Measure how well a network does on data: loss, and accuracy or perplexity, with 95 % intervals.

    Language models are also judged by what they write, and by the tasks of lm-eval.
    """
    _check(options)
    from shoal.measurement import evaluate_generation, evaluate_quality, evaluate_tasks

    loaded = open_model(options)
    tokenizer = loaded.load_tokenizer() if options.generate or options.tasks else None
    tasks = _tasks(options, loaded, tokenizer)
    data = None if options.data is None else open_data(_data_options(options), loaded)
    prompts = None if options.generate is None else _prompts(options, loaded, tokenizer)
    quality: dict[str, float] = {}
    # What cannot be had is said before long work begins; of tasks, only lm-eval itself knows that.
    if tasks:
        more = {"limit": options.task_limit, "num_fewshot": options.num_fewshot}
        found = evaluate_tasks(loaded.model, tokenizer, tasks, batch_size=options.batch_size, **more)
        quality |= _shown(found, f"{options.model} at tasks of lm-eval{_some(options)}", options)
    if data is not None:
        found = evaluate_quality(loaded.model, data.batches)
        quality |= _shown(found, f"{options.model} on {data.description}", options)
    if prompts is not None:
        found = evaluate_generation(loaded.model, prompts, batch_size=options.batch_size)
        quality |= _shown(found, f"{options.model} writes greedily after {prompts.description}", options)
    if options.json:
        show_json(
            {"model": options.model, **_source(data), **_asked(options, prompts, tasks), "quality": quality}
        )


def _check(options: Options) -> None:
    """Refuse a request for nothing, and options that would be ignored."""
    if options.data is None and options.generate is None and options.tasks is None:
        raise ConfigError(
            "asked for `shoal evaluate` without --data, --generate or --tasks: give at least one of them. "
            "`shoal evaluate --help` lists what works."
        )
    defaults = {each.name: each.default for each in fields(Options)}
    cutting = tuple(each.name for each in fields(BatchOptions) if each.name != "batch_size")
    for judge, names in (("generate", _GENERATION), ("tasks", _TASKS), ("data", cutting)):
        given = [typed_name(Options, name) for name in names if getattr(options, name) != defaults[name]]
        if given and getattr(options, judge) is None:
            raise ConfigError(
                f"asked for {', '.join(given)} without --{judge}: that means nothing there. "
                f"Give --{judge}, or leave it out."
            )


def _data_options(options: Options) -> DataOptions:
    cut = {each.name: getattr(options, each.name) for each in fields(BatchOptions)}
    return DataOptions(data=options.data or "", **cut)


def _tasks(options: Options, loaded: LoadedModel, tokenizer: Any) -> list[str]:
    from shoal.measurement import check_tasks

    if options.tasks is None:
        return []
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    check_tasks(loaded.model, tokenizer, names, limit=options.task_limit, num_fewshot=options.num_fewshot)
    return names


def _prompts(options: Options, loaded: LoadedModel, tokenizer: Any) -> Prompts:
    from shoal.data import read_prompts
    from shoal.measurement import check_generation, with_reference

    check_generation(loaded.model)
    prompts = read_prompts(
        options.generate or "",
        tokenizer=tokenizer,
        context=options.context,
        continuation=options.continuation,
        num_samples=options.generate_samples,
    )
    check_generation(loaded.model, prompts)
    if options.reference is None:
        return prompts
    reference = open_model(options, options.reference).model
    return with_reference(prompts, reference, batch_size=options.batch_size)


def _shown(figures: Mapping[str, float], title: str, options: Options) -> Mapping[str, float]:
    """Return the figures, which are shown unless all is to be one JSON document."""
    from shoal.reports import quality_table

    if not options.json:
        show_table(quality_table(figures, title=title))
    return figures


def _some(options: Options) -> str:
    return "" if options.task_limit is None else f" ({options.task_limit} documents of each)"


def _source(data: Data | None) -> dict[str, Any]:
    return {} if data is None else {"data": data.source, "sha256": data.sha256}


def _asked(options: Options, prompts: Prompts | None, tasks: list[str]) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if prompts is not None:
        told = {"source": prompts.source, "sha256": prompts.sha256}
        asked["generate"] = told | {"reference": options.reference}
    if tasks:
        asked["tasks"] = {
            "names": tasks,
            "limit": options.task_limit,
            "num_fewshot": options.num_fewshot,
        }
    return asked
