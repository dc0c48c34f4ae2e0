import importlib.util
import json
import random
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from shoal.errors import ConfigError, DataError, MissingExtraError
from shoal.measurement.tasks import check_tasks, evaluate_tasks

transformers = pytest.importorskip("transformers")
TASK = """
task: tiny_{kind}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
  cache_dir: {cache}
output_type: {kind}
test_split: test
doc_to_text: "{{{{question}}}} is"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list:
  - metric: {metric}
"""
CHOICES = 'doc_to_choice: ["b", "c"]'
GENERATION = 'generation_kwargs: {max_gen_toks: 1, until: ["."]}'


class Tokenizer:
    pad_token = None


class FakeManager:
    all_tasks = ("arc_easy", "arc_challenge", "boolq")

    def __init__(self, include_defaults):
        self.include_defaults = include_defaults

    def match_tasks(self, names):
        return [task for task in self.all_tasks if task.startswith(names[0].rstrip("*"))]


@pytest.fixture
def harness(monkeypatch):
    """A stand-in for lm-eval that answers at once and keeps what it was asked."""
    package, huggingface, tasks = map(ModuleType, ("lm_eval", "lm_eval.models.huggingface", "lm_eval.tasks"))
    package.asked = []
    package.found = {}

    def simple_evaluate(wrapped, **asked):
        package.asked.append(asked | {"wrapped": wrapped})
        wrapped["tokenizer"].pad_token = "<pad>"
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        sys.stdout.write("bootstrapping")
        return {"results": package.found}

    package.simple_evaluate = simple_evaluate
    huggingface.HFLM = lambda **given: given
    tasks.TaskManager = FakeManager
    for name in ("lm_eval", "lm_eval.models.huggingface", "lm_eval.tasks"):
        monkeypatch.setitem(
            sys.modules, name, {"lm_eval": package, "lm_eval.tasks": tasks}.get(name, huggingface)
        )
    return package


def test_figures_are_named_by_task_and_metric(harness, small_llama):
    harness.found = {
        "arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 4},
        "gsm8k": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A"},
    }
    assert evaluate_tasks(small_llama, Tokenizer(), ["arc_easy"]) == {
        "arc_easy/acc": 0.5,
        "arc_easy/acc_stderr": 0.1,
        "gsm8k/exact_match/strict-match": 0.25,
    }


def test_what_was_asked_for_is_handed_on(harness, small_llama):
    names = ["boolq", "arc_*", "boolq"]
    evaluate_tasks(small_llama, Tokenizer(), names, limit=5, num_fewshot=2, batch_size=3)
    asked = harness.asked[0]
    assert asked["tasks"] == ["boolq", "arc_easy", "arc_challenge"]
    assert (asked["limit"], asked["num_fewshot"]) == (5, 2)
    assert asked["wrapped"]["pretrained"] is small_llama
    assert asked["wrapped"]["batch_size"] == 3
    assert asked["task_manager"].include_defaults


def test_nothing_of_the_callers_is_changed(harness, small_llama, capsys):
    tokenizer = Tokenizer()
    small_llama.train()
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    evaluate_tasks(small_llama, tokenizer, ["boolq"])
    assert tokenizer.pad_token is None
    assert small_llama.training
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert capsys.readouterr().out == ""


def test_an_unknown_task_is_told_with_those_near_it(harness, small_llama):
    with pytest.raises(ConfigError, match="the task 'arc_easi': .*Near: arc_easy"):
        evaluate_tasks(small_llama, Tokenizer(), ["arc_easi"])


def test_data_that_cannot_be_had_is_told(harness, small_llama):
    def fail(*args, **more):
        raise ConnectionError("no route\nto host")

    harness.simple_evaluate = fail
    with pytest.raises(DataError, match=r"tasks boolq: their data cannot be had \(no route\)"):
        evaluate_tasks(small_llama, Tokenizer(), ["boolq"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"limit": 0}, "limit=0: at least 1"),
        ({"num_fewshot": -1}, "num_fewshot=-1: at least 0"),
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"tasks": []}, "named none"),
        ({"tokenizer": None}, "the model came without one"),
        ({"model": nn.Linear(1, 1)}, "Linear: it is no causal language model"),
    ],
)
def test_a_wrong_request_is_refused(harness, small_llama, wrong, message):
    request = {"model": small_llama, "tokenizer": Tokenizer(), "tasks": ["boolq"]} | wrong
    with pytest.raises(ConfigError, match=message):
        evaluate_tasks(**request)


def test_without_lm_eval_the_extra_is_named(small_llama, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"lm-eval is needed to run its tasks.*shoal\[eval\]"):
        check_tasks(small_llama, Tokenizer(), ["boolq"])


@pytest.fixture
def tokenizer():
    """Every letter is a token."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = " abcdefghijklmnopqrstuvwxyz0123456789."
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {each: n for n, each in enumerate(letters, start=3)}
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")
@pytest.mark.filterwarnings("default")
def test_lm_eval_judges_a_model_in_memory_by_task_files(small_llama, tokenizer, tmp_path, capsys):
    # Whatever it is asked, it says b.
    small_llama.model.norm.weight.data.zero_()
    small_llama.lm_head.bias = nn.Parameter(torch.zeros(64))
    small_llama.lm_head.bias.data[tokenizer.convert_tokens_to_ids("b")] = 9.0
    answers = ["b", "b", "b", "c"]
    lines = [json.dumps({"question": f"letter {n}", "answer": a}) for n, a in enumerate(answers)]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(lines))
    files = []
    for kind, metric, more in (
        ("multiple_choice", "acc", CHOICES),
        ("generate_until", "exact_match", GENERATION),
    ):
        file = tmp_path / f"{kind}.yaml"
        file.write_text(TASK.format(kind=kind, metric=metric, more=more, file=data, cache=tmp_path / "cache"))
        files.append(str(file))
    found = evaluate_tasks(small_llama.train(), tokenizer, files)
    assert found["tiny_multiple_choice/acc"] == 0.75
    assert found["tiny_multiple_choice/acc_stderr"] == pytest.approx((0.75 * 0.25 / 3) ** 0.5)
    assert found["tiny_generate_until/exact_match"] == 0.75
    assert evaluate_tasks(small_llama, tokenizer, files[:1], limit=2)["tiny_multiple_choice/acc"] == 1
    assert tokenizer.pad_token is None
    assert small_llama.training
    assert capsys.readouterr().out == ""
