import numpy as np
import pytest

from shoal import Plan
from shoal.errors import ConfigError
from shoal.reports import gates_figure
from shoal.training.concurrent.trace import Trace


def traced(length, steps):
    """Gates that shut one after another; the last unit has none."""
    trace = Trace()
    for step in range(1, steps + 1):
        theta = {unit: max(0.0, 0.9 - step / (10 * (unit + 1))) for unit in range(length - 1)}
        trace.note(step, theta, units=length, macs=1 - step / (2 * steps), price=0.1)
    return trace


def planned(chain, removed_at):
    told = {str(unit): step for unit, step in removed_at.items()}
    return Plan.removing(chain, removed_at, method="concurrent", predicted={"removed_at": told})


@pytest.mark.parametrize(("length", "steps"), [(2, 1), (8, 50), (27, 1000), (200, 300)])
def test_no_words_lie_on_each_other_or_stick_out(make_evidence, overlaps, clipped, length, steps):
    removed = {unit: max(1, steps // 2) for unit in range(0, length - 1, 2)}
    figure = gates_figure(planned(make_evidence(length).chain, removed), traced(length, steps))
    assert overlaps(figure) == []
    assert clipped(figure) == []


def test_every_gate_is_a_row_and_units_that_leave_are_marked(make_evidence):
    trace = traced(4, 30)
    figure = gates_figure(planned(make_evidence(4).chain, {2: 17}), trace)
    gates, costs, _ = figure.axes
    drawn = gates.collections[0].get_array()
    assert drawn.shape == (4, 30)
    assert np.allclose(drawn[:3].T, [row[:3] for row in trace.theta])
    assert drawn.mask[3].all()
    (cross,) = gates.lines
    assert cross.get_xydata().tolist() == [[17, 2]]
    assert costs.lines[0].get_ydata().tolist() == trace.macs
    assert "3 of 4 units left" in figure._suptitle.get_text()


def test_a_run_without_steps_is_not_drawn(make_evidence):
    with pytest.raises(ConfigError, match=r"no step was taken yet\. Train first"):
        gates_figure(planned(make_evidence(3).chain, {}), Trace())
