import pytest
import torch
from torch import nn

from shoal.cli import files
from shoal.cli.files import (
    check_file_target,
    check_folder_target,
    read_json,
    read_plan,
    write_text,
    write_verified,
)
from shoal.errors import ConfigError, DataError, PlanError, VerificationError


def test_text_is_written_whole(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "one")
    write_text(tmp_path / "new" / "a.txt", "two")
    assert [(p.name, p.read_text()) for p in (tmp_path / "new").iterdir()] == [("a.txt", "two")]


def test_an_existing_file_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "a.json"
    check_file_target(None, overwrite=False)
    check_file_target(path, overwrite=False)
    path.write_text("{}")
    check_file_target(path, overwrite=True)
    with pytest.raises(ConfigError, match="it exists.*--overwrite"):
        check_file_target(path, overwrite=False)
    with pytest.raises(ConfigError, match="a folder"):
        check_file_target(tmp_path, overwrite=True)


def test_a_folder_that_shoal_did_not_write_is_never_replaced(tmp_path):
    target = tmp_path / "out"
    check_folder_target(target, overwrite=False)
    target.mkdir()
    with pytest.raises(ConfigError, match="it exists.*--overwrite"):
        check_folder_target(target, overwrite=False)
    check_folder_target(target, overwrite=True)
    (target / "thesis.txt").write_text("dear")
    with pytest.raises(ConfigError, match="shoal did not write it"):
        check_folder_target(target, overwrite=True)


@pytest.mark.parametrize(("text", "message"), [(None, "there is no such file"), ("{", "it is not JSON")])
def test_json_that_cannot_be_read_is_refused(tmp_path, text, message):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_json(path, "evidence")


def test_what_is_no_plan_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="asked to read the plan .*no such file"):
        read_plan(tmp_path / "plan.json")
    (tmp_path / "plan.json").write_text("[]")
    with pytest.raises(PlanError, match="holds no plan"):
        read_plan(tmp_path / "plan.json")


SOURCE = {"kind": "import", "reference": "shoal.cli.demo_network:digits_resnet"}


def write(folder, model=None, **more):
    from shoal.cli.demo_network import digits_resnet

    model = model or digits_resnet().eval()
    return write_verified(
        model, folder, example=torch.randn(2, 1, 8, 8), overwrite=True, source=SOURCE, **more
    )


def test_a_folder_appears_when_it_is_verified(tmp_path):
    verification = write(tmp_path / "out")
    assert verification.passed
    assert verification.folder == tmp_path / "out"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert '"passed": true' in (tmp_path / "out" / "shoal.json").read_text()


def test_an_existing_folder_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "out")
    first = (tmp_path / "out" / "model.safetensors").read_bytes()
    write(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_does_not_reproduce_the_model_never_appears(tmp_path):
    with pytest.raises(VerificationError, match="out'") as caught:
        write(tmp_path / "out", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval())
    assert "unverified" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(new, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_take_place", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_answers_that_are_not_finite_are_not_written(tmp_path):
    from shoal.cli.demo_network import digits_resnet

    model = digits_resnet().eval()
    nn.init.constant_(model.classifier.weight, float("nan"))
    with pytest.raises(DataError):
        write(tmp_path / "out", model)
    assert list(tmp_path.iterdir()) == []
