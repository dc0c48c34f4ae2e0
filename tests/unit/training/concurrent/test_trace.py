import pytest

from shoal.training.concurrent.trace import Trace


@pytest.mark.parametrize("steps", [1, 200, 201, 5000])
def test_points_lie_evenly_and_there_are_few(steps):
    trace = Trace()
    for step in range(1, steps + 1):
        trace.note(step, {0: 1 / step}, units=2, macs=1 / step, price=float(step))
    assert trace.steps == list(range(1, steps + 1, trace.every))
    assert len(trace.steps) <= 200
    assert trace.every == 1 or len(trace.steps) >= 100
    assert trace.theta == [[1 / step, None] for step in trace.steps]
    assert trace.macs == [1 / step for step in trace.steps]
    assert trace.price == trace.steps
