import pytest

from shoal.errors import ConfigError
from shoal.reports.figures.trained import trained_figure

TOLD = {"title": "Net", "across": "MACs", "quality": "loss"}


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_points_stand_in_the_order_of_what_is_left(count, higher):
    points = {f"macs={n}": (1 - n / 10, n / 100) for n in range(count)}
    (axes,) = trained_figure(points, **TOLD, higher_is_better=higher).axes
    assert axes.lines[0].get_xydata().tolist() == sorted(map(list, points.values()))
    assert len(axes.texts) == count
    assert f"{'higher' if higher else 'lower'} is better" in axes.get_ylabel()
    assert "MACs" in axes.get_xlabel()


def test_no_points_are_refused():
    with pytest.raises(ConfigError, match="asked to draw loss against the MACs that are left of no networks"):
        trained_figure({}, **TOLD, higher_is_better=False)
