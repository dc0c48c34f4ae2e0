import pytest
import torch

import shoal as package
from networks import gpt2
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
