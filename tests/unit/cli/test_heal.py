import json

import pytest

from networks import gpt2
from shoal import Plan, apply, find_units, load, save
from shoal.training import healing

HEAL = "heal small --data net.py:batches --teacher net.py:make -o healed"


@pytest.fixture
def small(shoal, place):
    shoal("plan net.py:make --data digits --remove 1 -o plan.json")
    assert shoal("apply net.py:make plan.json --data digits -o small").code == 0
    return place / "small"


def test_a_healed_folder_keeps_its_plan_and_the_original_measurement(shoal, small, files):
    outcome = shoal(f"{HEAL} --epochs 1 --eval-data net.py:batches")
    assert outcome.code == 0
    old, new = (json.loads((small.parent / name / "shoal.json").read_text()) for name in ("small", "healed"))
    assert new["plan"] == old["plan"]
    assert new["before"] == old["before"]
    assert "loss" in new["after"]["quality"]
    assert files() == ["healed", "net.py", "plan.json", "small"]
    assert len(load("healed")) == 7


def test_json_tells_before_and_after(shoal, small):
    found = shoal(f"{HEAL} --steps 2 --eval-data net.py:batches --json").json
    assert found["before"]["quality"]["samples"] == 48
    assert found["verification"]["passed"]


def test_any_model_can_be_healed(shoal, place):
    assert shoal("heal net.py:make --data net.py:batches --epochs 1 -o healed").code == 0
    assert json.loads((place / "healed" / "shoal.json").read_text())["plan"] is None


def test_an_interrupted_run_goes_on_where_it_stopped(shoal, small, place, monkeypatch):
    step, taken = healing._Objective.__call__, []

    def interrupt(self, *args):
        taken.append(1)
        if len(taken) == 4:
            raise KeyboardInterrupt
        return step(self, *args)

    typed = f"{HEAL} --epochs 2 --set checkpoint_every=1"
    monkeypatch.setattr(healing._Objective, "__call__", interrupt)
    assert shoal(typed).code == 130
    assert not (place / "healed").exists()
    assert (place / "healed.heal.safetensors").exists()
    assert shoal(f"{typed} --resume").code == 0
    assert len(taken) == 4 + 6 - 3
    assert not (place / "healed.heal.safetensors").exists()


def test_the_settings_are_listed(shoal):
    outcome = shoal("heal --list-settings")
    assert outcome.code == 0
    assert "warmup" in outcome.out


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("heal small --data digits", "without --output"),
        (f"{HEAL} --distil 2", "distil=2"),
        (f"{HEAL} --set epoch=2", "the nearest is 'epochs'"),
        (f"{HEAL} --set lr=fast", "'fast' does not work"),
        ("heal none.py:make --data digits -o healed", "there is no file"),
    ],
)
def test_a_wrong_request_leaves_nothing(shoal, small, files, typed, message):
    before = files()
    outcome = shoal(typed)
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == before


def test_a_folder_for_shoal_alone_is_written_as_one_again(shoal, place):
    model, example = gpt2()
    plan = Plan.removing(find_units(model, example, granularity="sublayer"), [0])
    save(apply(model, plan), place / "sub", plan=plan, format="torch")
    (place / "ids.jsonl").write_text("\n".join(json.dumps({"input_ids": [*range(8)]}) for _ in range(4)))
    outcome = shoal("heal sub --data ids.jsonl --seq-len 8 --steps 1 -o healed")
    assert outcome.code == 0
    assert (place / "healed" / "original" / "config.json").is_file()
    assert shoal("verify healed").code == 0


def test_a_healed_folder_elsewhere_still_finds_what_it_is_made_of(
    shoal, place, tmp_path_factory, monkeypatch
):
    shoal("plan net.py:make --data digits --remove 1 -o plan.json")
    assert shoal("apply net.py:make plan.json --data digits -o small").code == 0
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    asked = f"--data {place}/net.py:batches --epochs 0 --teacher {place}/net.py:make -o healed"
    assert shoal(f"heal {place}/small {asked} --trust-remote-code").code == 0
    monkeypatch.chdir(place)
    assert shoal(f"verify {elsewhere}/healed --trust-remote-code").code == 0
