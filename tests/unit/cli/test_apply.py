import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import shoal as package
from networks import gpt2, llama
from shoal.errors import SurgeryError


@pytest.fixture
def plan(shoal):
    assert shoal("plan net.py:make --data digits --remove 1,3 -o plan.json").code == 0
    return "plan.json"


def test_the_folder_holds_the_smaller_model(shoal, plan):
    outcome = shoal("apply net.py:make plan.json --data digits -o small")
    assert outcome.code == 0
    assert "Verified: small" in outcome.out
    small = package.load("small")
    assert len(small) == 6
    assert small(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_json_tells_before_after_and_the_verification(shoal, plan):
    found = shoal("apply net.py:make plan.json --data digits -o small --json").json
    assert found["before"]["params"] - found["after"]["params"] == 2 * 16 * 17
    assert found["verification"]["passed"]
    assert found["output"] == "small"


def test_a_dry_run_writes_nothing(shoal, plan, files):
    before = files()
    outcome = shoal("apply net.py:make plan.json --data digits --dry-run")
    assert outcome.code == 0
    assert "remaining: 3 of 5 units" in outcome.out
    assert files() == before


def test_an_existing_folder_is_replaced_only_when_asked(shoal, plan, place):
    assert shoal("apply net.py:make plan.json --data digits -o small").code == 0
    refused = shoal("apply net.py:make plan.json --data digits -o small")
    assert refused.code == 2
    assert "overwrite" in refused.err
    assert shoal("apply net.py:make plan.json --data digits -o small --overwrite").code == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("apply net.py:make", "without PLAN.json"),
        ("apply net.py:make plan.json --data digits", "--output"),
        ("apply net.py:make none.json --data digits -o small", "no such file"),
        ("apply net.py:make net.py --data digits -o small", "not JSON"),
        ("apply net.py:make_other plan.json --data digits -o small", "with 5 units on Sequential with 4"),
    ],
)
def test_a_wrong_request_leaves_nothing(shoal, plan, files, typed, message):
    before = files()
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == before


def test_failed_surgery_exits_with_1_and_leaves_nothing(shoal, plan, files, monkeypatch):
    def fail(*args, **more):
        raise SurgeryError("it did not come out right")

    monkeypatch.setattr("shoal.surgery.publishing.save", fail)
    before = files()
    outcome = shoal("apply net.py:make plan.json --data digits -o small")
    assert outcome.code == 1
    assert "it did not come out right" in outcome.err
    assert files() == before


def test_an_interruption_exits_with_130_and_leaves_nothing(shoal, plan, files, monkeypatch):
    def interrupt(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("shoal.surgery.publishing.verify", interrupt)
    before = files()
    assert shoal("apply net.py:make plan.json --data digits -o small").code == 130
    assert files() == before


@pytest.fixture
def sublayer_plan(place):
    """A folder of a tiny GPT-2, and a plan to remove an attention and an MLP of it."""
    model, example = gpt2()
    model.save_pretrained(place / "gpt2")
    chain = package.find_units(model, example, granularity="sublayer")
    (place / "sub.json").write_text(package.Plan.removing(chain, [0, 5]).to_json())
    return "sub.json"


def test_a_plan_of_sublayers_is_known_by_its_units_and_needs_the_other_format(shoal, sublayer_plan, files):
    before = files()
    refused = shoal("apply gpt2 sub.json -o small")
    assert refused.code == 2
    assert "--format torch" in refused.err
    assert files() == before
    assert "remaining: 6 of 8 units" in shoal("apply gpt2 sub.json --dry-run").out
    outcome = shoal("apply gpt2 sub.json -o small --format torch")
    assert outcome.code == 0
    assert "Verified: small" in outcome.out
    assert shoal("verify small").code == 0
    assert shoal("units small --json").json["params"] == sum(
        p.numel() for p in package.load("small").parameters()
    )


def test_a_plan_of_sublayers_of_another_network_is_refused(shoal, sublayer_plan):
    outcome = shoal("apply net.py:make sub.json --data digits -o small --format torch")
    assert outcome.code == 2
    assert "with 8 units on Sequential with 5 units" in outcome.err


def test_another_format_is_refused(shoal, plan):
    outcome = shoal("apply net.py:make plan.json --data digits -o small --format onnx")
    assert outcome.code == 2
    assert "torch" in outcome.err


@pytest.fixture
def folder(place):
    """A folder of a tiny Llama in two files, and a plan to remove two of its four layers."""
    model, example = llama()
    model.save_pretrained(place / "llama", max_shard_size="60KB")
    chain = package.find_units(model, example)
    (place / "cut.json").write_text(package.Plan.removing(chain, [1, 2]).to_json())
    return place / "llama"


def test_files_of_a_local_folder_are_cut_without_loading_it(shoal, folder, files, monkeypatch):
    monkeypatch.setattr("shoal.cli.apply.open_model", None)
    outcome = shoal("apply llama cut.json -o small")
    assert outcome.code == 0
    assert "Verified: small" in outcome.out
    assert "weights" in outcome.out
    assert "written to small" in outcome.err
    assert not [name for name in files() if name.startswith(".small")]
    assert shoal("verify small").code == 0
    assert len(package.load("small").model.layers) == 2


def test_json_of_a_cut_of_files_tells_sizes_and_checks(shoal, folder, place):
    found = shoal("apply llama cut.json -o small --verify structure --json").json
    for side, path in (("before", folder), ("after", place / "small")):
        assert found[side]["weights"] == sum(each.stat().st_size for each in path.glob("*.safetensors"))
    assert found["after"]["params"] < found["before"]["params"]
    assert found["verification"]["passed"]
    assert [check["name"] for check in found["verification"]["checks"]][:3] == [
        "tensors",
        "layers",
        "structure",
    ]


def test_a_dry_run_on_a_folder_foretells_what_is_written(shoal, folder, files):
    before = files()
    told = shoal("apply llama cut.json --dry-run --json").json
    outcome = shoal("apply llama cut.json --dry-run")
    assert "cache a token" in outcome.out
    assert "nothing was written" in outcome.err
    assert files() == before
    done = shoal("apply llama cut.json -o small --json").json
    assert told["after"]["weights"] == done["after"]["weights"]
    assert told["after"]["params"] == done["after"]["params"]
    assert told["before"]["macs"] > told["after"]["macs"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("apply llama cut.json -o small --resume --device cpu", "for --resume: .*: --device asked for it"),
        ("apply net.py:make plan.json -o small --verify full --data digits", "asked for --verify"),
        ("apply llama cut.json -o small --dtype float16 --resume", "wanted in float16 and stored in float32"),
        ("apply llama cut.json -o small --verify much", "much"),
    ],
)  # fmt: skip
def test_options_of_the_other_way_are_refused(shoal, plan, folder, files, typed, message):
    before = files()
    outcome = shoal(typed)
    assert outcome.code == 2
    assert re.search(message, outcome.err)
    assert files() == before


def test_a_folder_is_loaded_where_that_is_asked_for(shoal, folder):
    outcome = shoal("apply llama cut.json -o small --device cpu")
    assert outcome.code == 0
    assert "latency" in outcome.out
    assert "outputs" in outcome.out


def test_a_damaged_folder_fails_the_work_and_leaves_nothing(shoal, folder, files):
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    before = files()
    outcome = shoal("apply llama cut.json -o small")
    assert outcome.code == 1
    assert "truncated" in outcome.err
    assert files() == before


def test_an_interrupted_cut_says_how_to_go_on(shoal, folder, files, monkeypatch):
    def interrupt(*args, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shoal.surgery.cutting.prove_cut", interrupt)
        outcome = shoal("apply llama cut.json -o small")
    assert outcome.code == 130
    assert "--resume goes on" in outcome.err
    assert "small" not in files()
    assert shoal("apply llama cut.json -o small --resume").code == 0
    assert not [name for name in files() if name.startswith(".small")]


@pytest.fixture
def adapter(place):
    """A folder of an adapter that changes two projections of every layer."""
    (place / "lora").mkdir()
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    }
    (place / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    front = "base_model.model.model.layers"
    weights = {
        f"{front}.{n}.self_attn.q_proj.lora_{x}.weight": torch.ones(2, 2) for n in range(4) for x in "AB"
    }
    save_file(weights, place / "lora" / "adapter_model.safetensors")
    return place / "lora"


def test_an_adapter_gets_the_numbers_of_the_layers_that_stay(shoal, folder, adapter, place):
    outcome = shoal("apply lora cut.json -o lora-small")
    assert outcome.code == 0
    assert "4 weights of the adapter kept, 4 left out" in outcome.err
    assert len(load_file(place / "lora-small" / "adapter_model.safetensors")) == 4
    assert shoal("apply lora cut.json -o lora-two --json").json["kept"] == 4
    refused = shoal("apply lora cut.json --dry-run")
    assert refused.code == 2
    assert "--dry-run with the adapter" in refused.err
