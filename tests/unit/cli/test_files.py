from pathlib import Path

import pytest

from shoal.cli.files import beside, check_file_target, kept, read_json, read_plan, write_text
from shoal.errors import BudgetError, ConfigError, PlanError
from shoal.journal import Journal


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


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigError])
def test_a_journal_outlives_only_a_run_that_stops(tmp_path, error):
    path = tmp_path / "journal.jsonl"
    with pytest.raises(error), kept(path, resume=False):
        raise error
    assert not path.exists()
    with pytest.raises(error), kept(path, resume=False) as journal:  # noqa: PT012
        journal["dear"] = 1
        raise error
    checkpoint = tmp_path / "journal.jsonl.0123.safetensors"
    checkpoint.write_bytes(b"")
    with kept(path, resume=True) as journal:
        assert journal["dear"] == 1
    assert not path.exists()
    assert not checkpoint.exists()


@pytest.mark.parametrize("folder", ["out", "runs/out", "/tmp/a.b"])
def test_what_stands_beside_a_folder_bears_its_name(folder):
    assert beside(Path(folder), "x").as_posix() == f"{folder}.x"


def test_what_an_interrupted_run_left_is_not_thrown_away_by_accident(tmp_path):
    path = tmp_path / "journal.jsonl"
    Journal(path)["dear"] = 1
    match = "holds 1 numbers .*--resume goes on .*--overwrite"
    with pytest.raises(ConfigError, match=match), kept(path, resume=False):
        pass
    assert Journal(path)["dear"] == 1
    with kept(path, resume=False, overwrite=True) as journal:
        assert not len(journal)


def test_what_was_measured_for_a_budget_that_cannot_be_met_serves_the_next_run(tmp_path, capsys):
    path = tmp_path / "journal.jsonl"
    with pytest.raises(BudgetError), kept(path, resume=False) as journal:  # noqa: PT012
        journal["dear"] = 1
        raise BudgetError("too little")
    assert "used when a budget that can be met is asked for" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt), kept(path, resume=False) as journal:  # noqa: PT012
        assert journal["dear"] == 1
        raise KeyboardInterrupt
    # That one was interrupted.
    with pytest.raises(ConfigError, match="--resume goes on"), kept(path, resume=False):
        pass
    with kept(path, resume=True) as journal:
        assert journal["dear"] == 1
    assert list(tmp_path.iterdir()) == []


def test_a_budget_that_cannot_be_met_leaves_nothing_where_nothing_was_measured(tmp_path):
    with pytest.raises(BudgetError), kept(tmp_path / "journal.jsonl", resume=False):
        raise BudgetError("too little")
    assert list(tmp_path.iterdir()) == []
