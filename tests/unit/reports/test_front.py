import json

import pytest

from shoal.errors import ConfigError, DataError
from shoal.plan import Plan
from shoal.reports.front import FrontRun, front_figure, front_table
from shoal.result import Measurement


def run(asked="macs=0.5", macs=50, **quality):
    return FrontRun(
        asked=asked,
        model="Net",
        units=2,
        whole=4,
        before=Measurement(params=100, macs=100, latency=2.0),
        after=Measurement(params=60, macs=macs, latency=1.0, quality=quality),
        saved=0.25,
    )


def test_a_folder_says_what_came_of_its_training(make_chain):
    plan = Plan.removing(make_chain([10] * 4), [1, 2])
    record = {
        "plan": json.loads(plan.to_json()),
        "before": Measurement(params=40, macs=4).as_json(),
        "after": Measurement(params=20, macs=2).as_json(),
        "training": {"pruning": {"saved": 0.5}},
    }
    found = FrontRun.of("units=2", record)
    assert (found.units, found.whole, found.saved) == (2, 4, 0.5)
    assert FrontRun.of("", record | {"training": {"pruning": None}}).saved is None
    assert found.as_json()["after"]["params"] == 20


def test_what_is_left_is_a_share_of_what_there_was():
    lefts = {name: run().left(name) for name in ("units", "params", "macs", "latency")}
    assert lefts == {"units": 0.5, "params": 0.6, "macs": 0.5, "latency": 0.5}
    assert FrontRun(**{**vars(run()), "after": Measurement(params=1, macs=1)}).left("latency") is None


@pytest.mark.parametrize(
    ("quality", "shown"),
    [({}, None), ({"loss": 1.0}, "loss"), ({"loss": 1.0, "accuracy": 0.9, "samples": 8}, "accuracy")],
)
def test_the_table_shows_one_quality_where_there_is_one(quality, shown):
    table = front_table([run(**quality)], {"macs=0.1": "why"})
    assert run(**quality).quality == shown
    names = [name for name, _ in table.columns]
    assert names == ["asked for", "units", "params", "MACs", *([shown] if shown else []), "training saved"]
    assert table.rows[0][:4] == ("macs=0.5", "2 of 4", "0.600", "0.500")
    assert table.rows[0][-1] == "25%"
    assert "failed: macs=0.1: why" in table.notes


def test_a_network_that_was_not_judged_has_a_dash():
    table = front_table([run(), run(accuracy=0.9)], {})
    assert [row[4] for row in table.rows] == ["-", "90.0 %"]


def test_a_front_of_nothing_says_so():
    assert front_table([], {}).title == "Nothing: 0 trained"


def test_the_figure_has_a_point_a_network():
    figure = front_figure([run(accuracy=0.8), run("macs=0.3", 30, accuracy=0.7)], across="macs")
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[0.3, 0.7], [0.5, 0.8]]
    assert [text.get_text() for text in axes.texts] == ["macs=0.3", "macs=0.5"]
    assert "higher is better" in axes.get_ylabel()


def test_what_was_not_measured_cannot_be_drawn():
    with pytest.raises(DataError, match="one of them was not measured"):
        front_figure([run()], across="macs")
    with pytest.raises(ConfigError, match="of no networks"):
        front_figure([], across="macs")
