import json

import pytest
from torch import nn

from shoal import load, save
from shoal.architectures.origins import located, noted
from shoal.architectures.references import load_model
from shoal.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\n\ndef build():\n    return nn.Dropout()\n")
    return path


class TestAFileThatIsNotFoundFromHere:
    def saved(self, file, monkeypatch):
        monkeypatch.chdir(file.parent)
        folder = save(nn.Dropout(), "out", source=load_model("mine.py:build").source)
        return file.parent / folder

    def test_is_found_where_it_lies_seen_from_the_folder(self, file, monkeypatch, tmp_path_factory):
        folder = self.saved(file, monkeypatch)
        record = json.loads((folder / "shoal.json").read_text())
        assert record["source"]["beside"] == "../mine.py"
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        assert isinstance(load(folder, trust_remote_code=True), nn.Dropout)

    def test_is_not_run_unless_that_is_allowed(self, file, monkeypatch, tmp_path_factory):
        folder = self.saved(file, monkeypatch)
        monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
        with pytest.raises(ConfigError, match=r"mine.py is, which the folder leads to. Allow it.*--original"):
            load(folder)

    def test_is_found_when_both_have_moved_together(self, file, monkeypatch, tmp_path_factory):
        self.saved(file, monkeypatch)
        moved = tmp_path_factory.mktemp("elsewhere") / "moved"
        file.parent.rename(moved)
        monkeypatch.chdir(moved.parent)
        assert isinstance(load("moved/out", trust_remote_code=True), nn.Dropout)

    def test_gives_way_to_one_of_that_name_that_is_another(self, file, monkeypatch, tmp_path_factory):
        folder = self.saved(file, monkeypatch)
        other = tmp_path_factory.mktemp("elsewhere")
        (other / "mine.py").write_text("build = None\n")
        monkeypatch.chdir(other)
        assert isinstance(load(folder, trust_remote_code=True), nn.Dropout)

    def test_is_refused_where_it_has_changed_and_both_places_are_named(
        self, file, monkeypatch, tmp_path_factory
    ):
        folder = self.saved(file, monkeypatch)
        file.write_text("build = None\n")
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        monkeypatch.chdir(elsewhere)
        message = rf"{elsewhere}/mine.py is not there, and {file} has changed since. Pass model=.*--original"
        with pytest.raises(ConfigError, match=message):
            load(folder)


@pytest.mark.parametrize("beside", ["mine.py", "../out/mine.py"])
def test_code_that_comes_in_the_folder_is_not_run(file, monkeypatch, beside):
    monkeypatch.chdir(file.parent)
    folder = save(nn.Dropout(), "out", source=load_model("mine.py:build").source)
    file.rename(folder / "mine.py")
    record = json.loads((folder / "shoal.json").read_text())
    record["source"]["beside"] = beside
    (folder / "shoal.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="mine.py is not there. Pass model="):
        load(folder)


def test_a_folder_made_of_a_saved_folder_finds_it_from_anywhere(file, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(file.parent)
    save(nn.Dropout(), "first", source=load_model("mine.py:build").source)
    second = file.parent / save(nn.Dropout(), "second", source=load_model("first").source)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert isinstance(load(second, trust_remote_code=True), nn.Dropout)


def test_a_note_of_what_is_no_file_stays_as_it_is(tmp_path):
    note = {"kind": "library", "reference": "timm:vit"}
    assert noted(note, tmp_path) == note
    assert located(note, tmp_path) == note
