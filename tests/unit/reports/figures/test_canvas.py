import subprocess
import sys

import matplotlib
import pytest

from shoal.errors import MissingExtraError
from shoal.reports import importance_figure, save_figure, similarity_figure
from shoal.reports.figures import check_available


@pytest.mark.parametrize("draw", [similarity_figure, importance_figure])
def test_without_matplotlib_the_extra_is_named(make_evidence, monkeypatch, draw):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for attempt in (check_available, lambda: draw(make_evidence(2))):
        with pytest.raises(MissingExtraError, match=r"matplotlib is needed .* 'shoal\[report\]'"):
            attempt()


def test_matplotlib_is_imported_when_a_figure_is_drawn_and_pyplot_never():
    script = (
        "import sys, numpy as np\n"
        "from shoal.reports import ParetoPoint, pareto_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        "points = [ParetoPoint(label='a', latency=1, quality=1)]\n"
        "pareto_figure(points, title='', quality='loss', higher_is_better=False)\n"
        "assert 'matplotlib' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_users_settings_neither_show_nor_change(make_evidence, tmp_path, monkeypatch):
    (plain,) = save_figure(similarity_figure(make_evidence(3)), tmp_path / "plain.svg")
    with matplotlib.rc_context({"font.size": 30, "font.family": "monospace", "axes.facecolor": "red"}):
        settings = dict(matplotlib.rcParams)
        (other,) = save_figure(similarity_figure(make_evidence(3)), tmp_path / "other.svg")
        assert dict(matplotlib.rcParams) == settings
    assert plain.read_bytes() == other.read_bytes()


def test_names_are_shown_as_they_are_whatever_signs_they_hold(make_evidence, tmp_path):
    evidence = make_evidence(2, scores={"a$_b$\\frac{": [1, 2]}, model="Net$_1$")
    save_figure(importance_figure(evidence), tmp_path / "a.svg")
