"""Pruning as a callback of transformers' Trainer: the budget is met, and a resumed run is the run itself."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shoal.errors import ConfigError, MissingExtraError
from shoal.training.concurrent.settings import ConcurrentSettings
from shoal.training.concurrent.trainer_callback import STATE_NAME, TrainerPruning, pruning_callback

transformers = pytest.importorskip("transformers", reason="needs the extra hf")
pytest.importorskip("accelerate", reason="needs the extra hf")

LAYERS, STEPS = 5, 30
EXAMPLE = {"input_ids": torch.zeros(1, 6, dtype=torch.long)}
# Units leave one by one in so few steps.
SETTINGS = ConcurrentSettings(
    start=0.2,
    tolerance=0.18,
    floor=0.3,
    confidence=0,
    warmup=0.1,
    window=0.8,
    haste=1.0,
    memory=0.98,
    probes=5,
)


def tiny_llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=24,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
        attention_dropout=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config)


def tokens(count: int = 64) -> list[dict[str, torch.Tensor]]:
    rows = torch.randint(3, 24, (count, 6), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in rows]


def made(model: Any, **changes: Any) -> TrainerPruning:
    return pruning_callback(model, EXAMPLE, **({"budget": "units=2", "settings": SETTINGS} | changes))


def trainer(model: Any, folder: Path, callback: TrainerPruning, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 10,
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
    }
    args = transformers.TrainingArguments(str(folder), **(arguments | changes))
    return transformers.Trainer(model, args, train_dataset=tokens(), callbacks=[callback])


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_training_ends_at_the_budget_with_a_network_that_loads_as_any_other(tmp_path: Path) -> None:
    model = tiny_llama()
    callback = made(model)
    assert isinstance(callback, transformers.TrainerCallback)
    trainer(model, tmp_path / "run", callback).train()

    small = callback.finish()
    assert small.config.num_hidden_layers == 2
    small.save_pretrained(tmp_path / "small")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**EXAMPLE).logits, small.eval()(**EXAMPLE).logits)


def test_logs_say_how_far_pruning_has_come(tmp_path: Path) -> None:
    model = tiny_llama()
    callback = made(model)
    run = trainer(model, tmp_path, callback)
    run.train()
    logged = [entry["pruning/units"] for entry in run.state.log_history]
    assert logged[-1] == 2
    assert logged == sorted(logged, reverse=True)
    assert run.state.log_history[-1]["pruning/compute_saved"] == callback.pruner.progress().saved


def test_a_budget_of_all_units_removes_none(tmp_path: Path) -> None:
    model = tiny_llama()
    callback = made(model, budget=f"units={LAYERS}")
    trainer(model, tmp_path, callback, max_steps=4).train()
    assert callback.finish().config.num_hidden_layers == LAYERS


def test_accumulated_batches_are_one_step_of_the_pruner(tmp_path: Path) -> None:
    model = tiny_llama()
    callback = made(model)
    trainer(model, tmp_path, callback, max_steps=6, gradient_accumulation_steps=2).train()
    assert callback.pruner.done == 6
    # Two calls a step, until all gates were settled.
    assert callback.pruner.gates.calls == 2 * max(callback.pruner.removed_at.values())
    assert callback.finish().config.num_hidden_layers == 2


@dataclass(frozen=True)
class Whole:
    """A run that was never interrupted, and the folder of its checkpoints, one every five steps."""

    callback: TrainerPruning
    folder: Path

    def checkpoint(self, step: int) -> Path:
        return self.folder / f"checkpoint-{step}"

    def left(self, step: int) -> int:
        return LAYERS - len(json.loads((self.checkpoint(step) / STATE_NAME).read_text())["removed"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    model, folder = tiny_llama(), tmp_path_factory.mktemp("whole")
    callback = made(model)
    trainer(model, folder, callback, save_strategy="steps", save_steps=5).train()
    return Whole(callback, folder)


@pytest.mark.parametrize(("step", "left"), [(5, 5), (20, 3), (25, 2)])
def test_a_resumed_run_is_the_run_that_was_never_interrupted(
    whole: Whole, tmp_path: Path, step: int, left: int
) -> None:
    assert whole.left(step) == left
    checkpoint, model = whole.checkpoint(step), tiny_llama()
    resumed = made(model, resume_from=checkpoint)
    trainer(model, tmp_path, resumed).train(resume_from_checkpoint=str(checkpoint))

    assert resumed.pruner.removed == whole.callback.pruner.removed
    assert resumed.pruner.decisions.means == whole.callback.pruner.decisions.means
    assert resumed.pruner.progress() == whole.callback.pruner.progress()
    assert same(weights(resumed.finish()), weights(whole.callback.finish()))


def test_checkpointed_activations_change_nothing(whole: Whole, tmp_path: Path) -> None:
    model = tiny_llama()
    callback = made(model)
    names = ("activation_checkpointing", "gradient_checkpointing")
    name = next(name for name in names if hasattr(transformers.TrainingArguments, name))
    trainer(model, tmp_path, callback, **{name: True}).train()
    assert callback.pruner.progress() == whole.callback.pruner.progress()
    assert same(weights(callback.finish()), weights(whole.callback.finish()))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (5, r"from step 5 on: the callback goes on from step 0.* resume_from="),
        (20, r"without units \[.*resume_from= that checkpoint"),
    ],
)
def test_resuming_without_saying_so_is_refused(whole: Whole, tmp_path: Path, step: int, said: str) -> None:
    model = tiny_llama()
    run = trainer(model, tmp_path, made(model))
    with pytest.raises(ConfigError, match=said):
        run.train(resume_from_checkpoint=str(whole.checkpoint(step)))


def test_another_checkpoint_than_the_trainer_resumes_is_refused(whole: Whole, tmp_path: Path) -> None:
    model = tiny_llama()
    run = trainer(model, tmp_path, made(model, resume_from=whole.checkpoint(15)))
    with pytest.raises(ConfigError, match="from step 0 on: the callback goes on from step 15"):
        run.train()


def test_a_shard_of_weights_is_loaded_as_ever(tmp_path: Path) -> None:
    model = tiny_llama()
    made(model)
    shard = {name: tensor for name, tensor in weights(model).items() if ".layers.0." in name}
    assert model.load_state_dict(shard, strict=False).unexpected_keys == []


def test_a_checkpoint_is_resumed_with_its_own_steps_and_budget(whole: Whole, tmp_path: Path) -> None:
    checkpoint = whole.checkpoint(5)
    with pytest.raises(ConfigError, match="budget 'units=2' -> 'units=3'"):
        made(tiny_llama(), budget="units=3", resume_from=checkpoint)
    model = tiny_llama()
    callback = made(model, resume_from=checkpoint)
    run = trainer(model, tmp_path, callback, max_steps=STEPS + 1)
    with pytest.raises(
        ConfigError, match=f"training of {STEPS + 1} steps: the checkpoint is of one of {STEPS}"
    ):
        run.train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ConfigError, match=f"{STATE_NAME} cannot be read"):
        made(tiny_llama(), resume_from=tmp_path)


def test_a_callback_serves_one_run_on_one_network(tmp_path: Path) -> None:
    model = tiny_llama()
    callback = made(model)
    with pytest.raises(ConfigError, match="training has not begun"):
        callback.finish()
    with pytest.raises(ConfigError, match="another network"):
        trainer(tiny_llama(), tmp_path, callback).train()
    run = trainer(model, tmp_path, callback, max_steps=4)
    run.train()
    with pytest.raises(ConfigError, match="second training run"):
        run.train()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "steps"}, "load_best"),
        ({"torch_compile": True}, "torch_compile=True"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    model = tiny_llama()
    callback = made(model)
    args = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, **changes)
    state = transformers.TrainerState(max_steps=STEPS)
    with pytest.raises(ConfigError, match=named):
        callback.on_train_begin(args, state, None, model=model, optimizer=None)


SEARCHLESS = SimpleNamespace(is_hyper_param_search=False)


def arguments(**changes: Any) -> SimpleNamespace:
    """What the callback asks of a trainer's arguments."""
    alone = {"n_gpu": 0, "world_size": 1, "fp16": False, "gradient_accumulation_steps": 1}
    return SimpleNamespace(
        **alone | {"gradient_checkpointing": False, "ddp_find_unused_parameters": None} | changes
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"gradient_accumulation_steps": 4}, "4 batches a step"), ({"fp16": True}, "losses that are scaled")],
)
def test_slopes_are_not_read_off_losses_that_are_scaled(changes: dict[str, Any], said: str) -> None:
    model, args = tiny_llama(), arguments(**changes)
    callback = made(model, settings=replace(SETTINGS, estimator="slope"))
    with pytest.raises(ConfigError, match=f"estimator='slope' and {said}"):
        callback.on_train_begin(args, SEARCHLESS, None, model=model, optimizer=None)


@pytest.mark.parametrize(
    "changes", [{"gradient_checkpointing": True}, {"ddp_find_unused_parameters": False}], ids=str
)
def test_processes_that_expect_all_gradients_are_refused(changes: dict[str, Any]) -> None:
    model = tiny_llama()
    with pytest.raises(ConfigError, match="ddp_find_unused_parameters=True goes with it"):
        made(model).on_train_begin(
            arguments(world_size=2, **changes), SEARCHLESS, None, model=model, optimizer=None
        )


def test_several_gpus_in_one_process_and_searches_are_refused() -> None:
    model = tiny_llama()
    args, state = arguments(n_gpu=2), SimpleNamespace(is_hyper_param_search=True)
    with pytest.raises(ConfigError, match=r"2 GPUs in one process .* a search of hyper-parameters"):
        made(model).on_train_begin(args, state, None, model=model, optimizer=None)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"shoal\[hf\]"):
        pruning_callback(torch.nn.Linear(2, 2), EXAMPLE, budget="units=2")
