"""What a cut of files takes, in a table, and what is said where it is interrupted."""

import pytest

from shoal import surgery
from shoal.cli.cutting import _sizes_table, cut_files
from shoal.surgery.folders import resumable


def test_what_is_not_known_has_no_row():
    table = _sizes_table({"params": 100, "weights": 2048}, {"params": 50, "weights": 1024})
    assert table.rows == (
        ("parameters", "100", "50", "0.500"),
        ("weights", "2 KiB", "1 KiB", "0.500"),
    )


def test_what_the_plan_knows_has_one():
    table = _sizes_table({"params": 4, "weights": 8, "macs": 6}, {"params": 2, "weights": 4, "macs": 3})
    assert table.rows[2] == ("MACs", "6", "3", "0.500")


def interrupted(target, monkeypatch, *, within):
    def cut(source, plan, target, **more):
        if within:
            with resumable(target, "0123456789abcdef", overwrite=False, resume=False):
                raise KeyboardInterrupt
        raise KeyboardInterrupt

    monkeypatch.setattr(surgery, "cut_folder", cut)
    with pytest.raises(KeyboardInterrupt):
        cut_files(target, None, target, overwrite=False, resume=False, depth="auto", as_json=False)


def test_an_interrupted_cut_says_where_its_work_is_and_how_it_is_lost(tmp_path, monkeypatch, capsys):
    interrupted(tmp_path / "out", monkeypatch, within=True)
    told = capsys.readouterr().err
    assert f"kept in {tmp_path / '.out.0123456789abcdef.cut'}; --resume goes on" in told
    assert "a run without throws it away" in told


def test_a_cut_that_was_interrupted_before_it_wrote_anything_promises_nothing(tmp_path, monkeypatch, capsys):
    interrupted(tmp_path / "out", monkeypatch, within=False)
    assert capsys.readouterr().err == ""
