import pytest

from shoal.data.lines import are_tokens, json_lines, read_text
from shoal.errors import DataError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lines.jsonl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", []), ('{"a": 1}', [(1, {"a": 1})]), ('1\n\n \n"b c"\n', [(1, 1), (4, "b c")])],
)
def test_lines_keep_their_numbers_and_empty_ones_are_none(path, text, expected):
    path.write_text(text)
    assert list(json_lines(path)) == expected


def test_what_separates_lines_elsewhere_may_stand_in_a_text(path):
    path.write_text('"a\u2028b"', encoding="utf-8")
    assert list(json_lines(path)) == [(1, "a\u2028b")]


def test_a_line_that_is_no_json_is_named(path):
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        list(json_lines(path))


def test_a_file_that_is_no_utf_8_is_named(path):
    path.write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_text(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], True),
        ([0, 5], True),
        ([-1], False),
        ([1.0], False),
        ([True], False),
        ("text", False),
        (None, False),
    ],
)
def test_token_ids_are_whole_numbers_from_0(content, expected):
    assert are_tokens(content) is expected
