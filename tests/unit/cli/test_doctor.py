import pytest
import torch

from shoal.cli import doctor


def test_it_says_versions_device_and_extras(shoal):
    found = shoal("doctor --json").json
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert set(found["extras"]) == set(doctor.EXTRAS)
    assert shoal("doctor").code == 0


def test_what_is_missing_comes_with_the_command_that_installs_it(shoal, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = shoal("doctor --json").json
    assert found["extras"]["hf"]["transformers"] is None
    assert any(advice.startswith("for what is missing: pip install 'shoal[hf,") for advice in found["advice"])


def test_a_torchvision_that_does_not_fit_is_named(shoal, monkeypatch):
    def fail():
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor, "import_torchvision", fail)
    advice = shoal("doctor --json").json["advice"]
    assert any("operator torchvision::nms does not exist" in line for line in advice)


@pytest.mark.parametrize("extra", doctor.EXTRAS)
def test_every_extra_says_what_it_is_for(shoal, extra):
    assert extra in shoal("doctor").out
