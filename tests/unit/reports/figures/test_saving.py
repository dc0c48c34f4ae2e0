import pytest

from shoal.errors import ConfigError
from shoal.reports import save_figure, similarity_figure


@pytest.fixture
def figure(make_evidence):
    return similarity_figure(make_evidence(3))


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("new/similarity", ["similarity.png", "similarity.svg"]),
        ("new/similarity.png", ["similarity.png"]),
        ("new/similarity.SVG", ["similarity.SVG"]),
    ],
)
def test_the_ending_says_what_is_written(figure, tmp_path, name, written):
    paths = save_figure(figure, tmp_path / name)
    assert paths == tuple(tmp_path / "new" / each for each in written)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == written


def test_files_are_what_their_ending_says(figure, tmp_path):
    png, svg = save_figure(figure, tmp_path / "a")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in svg.read_bytes()


def test_the_same_figure_is_the_same_bytes(make_evidence, tmp_path):
    for name in ("a", "b"):
        save_figure(similarity_figure(make_evidence(3), removed=[1]), tmp_path / name)
    for ending in ("png", "svg"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    assert b"date" not in (tmp_path / "a.svg").read_bytes()


def test_what_cannot_be_drawn_leaves_files_as_they_were(figure, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_text("dear")
    whole = figure.savefig

    def fail(*given, format, **more):
        if format == "svg":
            raise OSError("full")
        whole(*given, format=format, **more)

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="full"):
        save_figure(figure, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "dear"


def test_another_ending_is_refused(figure, tmp_path):
    with pytest.raises(ConfigError, match=r"a\.pdf': \.png and \.svg work"):
        save_figure(figure, tmp_path / "a.pdf")
    assert list(tmp_path.iterdir()) == []
