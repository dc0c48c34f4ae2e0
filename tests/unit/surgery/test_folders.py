"""Folders appear whole or not at all."""

import pytest

from shoal.errors import ConfigError
from shoal.surgery.folders import check_target, resumable, written_whole


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


KEY = "0123456789abcdef"


def leave_half(target, key=KEY, **more):
    with resumable(target, key, overwrite=False, resume=True, **more) as (partial, journal):
        (partial / "file").write_text("x")
        journal["file"] = 1
        (partial / "half").write_text("x")
        raise KeyboardInterrupt


def test_a_resumable_folder_appears_when_the_work_is_done(tmp_path):
    with resumable(tmp_path / "a" / "out", KEY, overwrite=False, resume=False) as (partial, journal):
        journal["done"] = 1
        (partial / "file").write_text("x")
        assert not (tmp_path / "a" / "out").exists()
    assert [path.name for path in (tmp_path / "a" / "out").iterdir()] == ["file"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]


@pytest.mark.parametrize("resume", [True, False])
def test_what_an_interruption_leaves_is_gone_on_with_only_when_asked(tmp_path, resume):
    with pytest.raises(KeyboardInterrupt):
        leave_half(tmp_path / "out")
    with resumable(tmp_path / "out", KEY, overwrite=False, resume=resume) as (partial, journal):
        assert ("file" in journal) == (partial / "file").exists() == resume
        assert not (partial / "half").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_left_of_other_work_on_the_same_folder_is_thrown_away(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        leave_half(tmp_path / "out", "f" * 16)
    with pytest.raises(KeyboardInterrupt):
        leave_half(tmp_path / "out.2")
    with resumable(tmp_path / "out", KEY, overwrite=False, resume=True) as (_, journal):
        assert "file" not in journal
    assert {path.name for path in tmp_path.iterdir()} == {"out", f".out.2.{KEY}.partial"}


def test_after_an_error_nothing_is_left(tmp_path):
    with (
        pytest.raises(ValueError, match="no"),
        resumable(tmp_path / "out", KEY, overwrite=False, resume=True),
    ):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_write_one_folder(tmp_path):
    with (
        resumable(tmp_path / "out", KEY, overwrite=False, resume=True),
        pytest.raises(ConfigError, match="another process is writing there"),
        resumable(tmp_path / "out", KEY, overwrite=False, resume=True),
    ):
        pass


@pytest.mark.parametrize("moved", [True, False])
def test_a_renaming_that_was_cut_short_is_undone_or_finished(tmp_path, moved):
    """The old folder had been moved aside, and the new one had its name already or not."""
    old = tmp_path / f".out.{KEY}.old"
    old.mkdir()
    (old / "shoal.json").write_text("old")
    new = tmp_path / ("out" if moved else f".out.{KEY}.partial")
    new.mkdir()
    (new / "shoal.json").write_text("new")
    with (
        pytest.raises(ConfigError, match="it exists"),
        resumable(tmp_path / "out", "f" * 16, overwrite=False, resume=False),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "shoal.json").read_text() == ("new" if moved else "old")
