import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.journal import Journal, fingerprint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "scores.jsonl"


def test_values_survive_the_process(path):
    journal = Journal(path)
    journal["a"] = 0.1 + 0.2
    journal["b"] = {"runs": [1, 2]}
    again = Journal(path)
    assert (again["a"], again["b"], len(again)) == (0.1 + 0.2, {"runs": [1, 2]}, 2)
    assert "a" in again
    assert "c" not in again


def test_a_journal_without_a_file_remembers_in_memory():
    journal = Journal()
    assert len(journal) == 0
    journal["a"] = 1
    assert journal["a"] == 1


def test_the_last_value_of_a_key_counts(path):
    journal = Journal(path)
    journal["a"] = 1
    journal["a"] = 2
    assert (Journal(path)["a"], len(Journal(path))) == (2, 1)


def test_a_journal_is_begun_anew_unless_it_resumes(path):
    Journal(path)["a"] = 1
    assert len(Journal(path, resume=False)) == 0
    assert len(Journal(path)) == 0


@pytest.mark.parametrize("cut", range(1, 26))
def test_a_line_that_a_crash_cut_short_is_ignored_and_swallows_nothing(path, cut):
    journal = Journal(path)
    journal["first"] = 1
    journal["second"] = 2
    path.write_bytes(path.read_bytes()[:-cut])
    resumed = Journal(path)
    assert resumed["first"] == 1
    resumed["third"] = 3
    again = Journal(path)
    assert (again["first"], again["third"]) == (1, 3)
    assert again["second"] == 2 if cut == 1 else "second" not in again


@pytest.mark.parametrize("value", [float("inf"), None, "naïve", [], {}])
def test_values_come_back_as_they_were(path, value):
    Journal(path)["key"] = value
    assert Journal(path)["key"] == value


PARTS = st.lists(st.binary(max_size=4) | st.integers() | st.text(max_size=3), max_size=4)


@given(PARTS, PARTS)
def test_fingerprints_differ_where_the_parts_do(one, other):
    assert (fingerprint(*one) == fingerprint(*other)) == (one == other)


def test_a_fingerprint_is_the_same_in_every_process():
    assert fingerprint("weights", 3, b"\x00") == fingerprint("weights", 3, b"\x00")
    assert len(fingerprint()) == 16
    assert fingerprint(b"a\x00", b"b") != fingerprint(b"a", b"\x00b")
