"""Folders appear whole or not at all."""

import json
import os
import stat
from pathlib import Path

import pytest

from shoal.errors import ConfigError
from shoal.surgery.folders import check_target, left_beside, resumable, written_whole


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
    assert {path.name for path in tmp_path.iterdir()} == {"out", f".out.2.{KEY}.cut"}


def test_after_an_error_nothing_is_left(tmp_path):
    with (
        pytest.raises(ValueError, match="no"),
        resumable(tmp_path / "out", KEY, overwrite=False, resume=True),
    ):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


def resumed(target):
    return resumable(target, KEY, overwrite=False, resume=True)


def whole(target):
    return written_whole(target, overwrite=False)


@pytest.mark.parametrize("first", [resumed, whole])
@pytest.mark.parametrize("second", [resumed, whole])
def test_two_processes_do_not_write_one_folder(tmp_path, first, second):
    with first(tmp_path / "out"):
        with (
            pytest.raises(ConfigError, match="another process is writing there"),
            second(tmp_path / "out"),
        ):
            pass
        with second(tmp_path / "out.2"):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.2"}


def test_a_lock_that_is_just_being_given_back_is_not_taken(tmp_path, monkeypatch):
    """The file that was opened has lost its name, under which a third process could make another."""
    fcntl, lock = pytest.importorskip("fcntl"), tmp_path / ".out.lock"
    monkeypatch.setattr(fcntl, "flock", lambda *args: lock.unlink())
    with pytest.raises(ConfigError, match="another process"), whole(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [resumed, whole])
def test_the_lock_of_a_killed_process_is_taken_and_removed(tmp_path, kind):
    (tmp_path / ".out.lock").touch()
    with kind(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_nothing_can_be_locked_folders_are_written_all_the_same(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("not supported")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", fail)
    with whole(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", [resumed, whole])
def test_a_lock_that_is_a_link_is_not_followed(tmp_path, kind):
    pytest.importorskip("fcntl")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ConfigError, match=r"its lock .*out\.lock cannot be opened"), kind(tmp_path / "out"):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("kind", [resumed, whole])
def test_what_is_left_of_a_folder_with_a_longer_name_stays(tmp_path, kind):
    others = {".out.student.0123abcd.partial", ".out.student.0123abcd.old", f".out.student.{KEY}.cut"}
    others |= {f".out.{KEY}.cuttings", ".out.0123abcd.older"}
    others |= {
        ".out.0123abcd.partial",
        ".out.01234567890123456.cut",
        ".out.0123ABCD.old",
        "x.out.0123abcd.old",
    }
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "shoal.json").touch()
    with kind(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == others | {"out"}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_is_not_taken_for_one_that_was_left(tmp_path, kind, resume):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("x")
    planted = tmp_path / f".out.{KEY}.cut"
    planted.symlink_to("victim") if kind == "link" else planted.touch()
    with (
        pytest.raises(ConfigError, match=r"\.cut is in the way.*Remove it"),
        resumable(tmp_path / "out", KEY, overwrite=False, resume=resume),
    ):
        pass
    assert (tmp_path / "victim" / "thesis.txt").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs users")
@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_another_user_is_not_gone_on_with(tmp_path, monkeypatch, resume):
    (tmp_path / f".out.{KEY}.cut").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with (
        pytest.raises(ConfigError, match="no folder of this user's"),
        resumable(tmp_path / "out", KEY, overwrite=False, resume=resume),
    ):
        pass
    assert (tmp_path / f".out.{KEY}.cut").is_dir()


def test_links_and_folders_in_what_was_left_are_thrown_away(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        leave_half(tmp_path / "out")
    partial, victim = tmp_path / f".out.{KEY}.cut", tmp_path / "victim"
    victim.write_text("x")
    (partial / "sub").mkdir()
    (partial / "sub" / "file").touch()
    (partial / "link").symlink_to(victim)
    with (partial / ".journal.jsonl").open("a") as stream:
        stream.write(json.dumps({"key": "link", "value": 1}) + "\n")
    with resumed(tmp_path / "out") as (folder, journal):
        assert {path.name for path in folder.iterdir()} == {"file", ".journal.jsonl"}
        assert "file" in journal
    assert victim.read_text() == "x"


def test_a_journal_that_is_a_link_is_not_written_to(tmp_path):
    (tmp_path / "victim").write_text('{"key": "file", "value": 1}')
    (tmp_path / f".out.{KEY}.cut").mkdir()
    (tmp_path / f".out.{KEY}.cut" / ".journal.jsonl").symlink_to(tmp_path / "victim")
    with resumed(tmp_path / "out") as (_, journal):
        assert len(journal) == 0
        journal["new"] = 1
    assert (tmp_path / "victim").read_text() == '{"key": "file", "value": 1}'


@pytest.mark.skipif(os.name == "nt", reason="needs modes")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_only_its_owner_sees_a_folder_before_it_is_complete(tmp_path, mask):
    before = os.umask(mask)
    try:
        with resumed(tmp_path / "out") as (partial, _):
            assert stat.S_IMODE(partial.stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask
    finally:
        os.umask(before)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", [f".out.{KEY}.old", ".out.0123abcd.old"])
@pytest.mark.parametrize("kind", [resumed, whole])
def test_a_folder_that_a_killed_process_moved_aside_is_put_back_first(tmp_path, kind, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "shoal.json").write_text("old")
    with pytest.raises(ConfigError, match="it exists"), kind(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "shoal.json").read_text() == "old"


def test_a_folder_that_is_replaced_and_removed_meanwhile_is_no_error(tmp_path, monkeypatch):
    target = tmp_path / "out"
    with written_whole(target, overwrite=True) as partial:
        (partial / "shoal.json").write_text("new")
        target.mkdir()
        rename = type(target).rename

        def removed(path, other):
            if path == target:
                path.rmdir()
            return rename(path, other)

        monkeypatch.setattr(type(target), "rename", removed)
    assert (target / "shoal.json").read_text() == "new"


def test_what_is_left_beside_a_folder_is_named(tmp_path):
    assert left_beside(tmp_path / "none" / "out") == left_beside(tmp_path / "out") == []
    with pytest.raises(KeyboardInterrupt):
        leave_half(tmp_path / "out")
    assert left_beside(tmp_path / "out") == [tmp_path / f".out.{KEY}.cut"]
    assert left_beside(tmp_path / "ou") == []


@pytest.mark.parametrize("moved", [True, False])
def test_a_renaming_that_was_cut_short_is_undone_or_finished(tmp_path, moved):
    """The old folder had been moved aside, and the new one had its name already or not."""
    old = tmp_path / f".out.{KEY}.old"
    old.mkdir()
    (old / "shoal.json").write_text("old")
    new = tmp_path / ("out" if moved else f".out.{KEY}.cut")
    new.mkdir()
    (new / "shoal.json").write_text("new")
    with (
        pytest.raises(ConfigError, match="it exists"),
        resumable(tmp_path / "out", "f" * 16, overwrite=False, resume=False),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "shoal.json").read_text() == ("new" if moved else "old")


def test_where_nothing_can_be_written_is_told_before(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "out", tmp_path / "file" / "deeper" / "out"):
        with pytest.raises(ConfigError, match=r"nothing can be written in .*file' \(Not a directory\)"):
            check_target(target, overwrite=False)
    check_target(tmp_path / "not" / "there" / "out", overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    with pytest.raises(ConfigError):
        check_target(Path("/"), overwrite=True)
