import json

import pytest


def test_the_tables_show_units_segments_and_the_data(shoal):
    outcome = shoal("analyze net.py:make --data net.py:batches")
    assert outcome.code == 0
    assert "Segments of like units" in outcome.out
    assert "drop_estimate" in outcome.out
    assert "scored on net.py:batches, 48 samples, 3 batches, mean loss" in outcome.out


def test_evidence_is_written_and_printed_alike(shoal, place):
    outcome = shoal("analyze net.py:make --data net.py:batches --json -o evidence.json")
    assert outcome.json == json.loads((place / "evidence.json").read_text())
    assert outcome.json["data"]["source"] == "net.py:batches"
    assert len(outcome.json["similarity"]) == 5


def test_an_existing_file_is_not_replaced_unasked(shoal, place):
    (place / "evidence.json").write_text("dear")
    outcome = shoal("analyze net.py:make --data net.py:batches -o evidence.json")
    assert outcome.code == 2
    assert "--overwrite" in outcome.err
    assert (place / "evidence.json").read_text() == "dear"
    assert shoal("analyze net.py:make --data net.py:batches -o evidence.json --overwrite").code == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("analyze net.py:make", "without --data"),
        ("analyze net.py:make --data net.py:empty", "empty"),
        ("analyze net.py:make --data digits --num-samples 1", "sample"),
        ("analyze net.py:make --data digits --num-samples 999999", "999,999"),
    ],
)
def test_bad_data_is_one_clear_error(shoal, files, typed, message):
    before = files()
    outcome = shoal(typed + " -o evidence.json")
    assert outcome.code == 2
    assert message in outcome.err
    assert files() == before
