"""Folders appear whole or not at all."""

import pytest

from shoal.errors import ConfigError
from shoal.surgery.folders import check_target, written_whole


def test_a_folder_appears_when_the_work_is_done(tmp_path):
    with written_whole(tmp_path / "a" / "out", overwrite=False) as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "file").read_text() == "x"


def write_half(folder, error):
    with written_whole(folder, overwrite=False) as partial:
        (partial / "file").write_text("x")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_work_that_stops_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        write_half(tmp_path / "out", error)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_came_into_being_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(ConfigError, match="it exists"), written_whole(tmp_path / "out", overwrite=False):
        (tmp_path / "out").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_what_shoal_wrote_may_be_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="not a folder that shoal wrote"):
        check_target(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize("made", [False, True])
def test_a_new_name_and_an_empty_folder_may_be_written(tmp_path, made):
    if made:
        (tmp_path / "out").mkdir()
    check_target(tmp_path / "out", overwrite=True)
