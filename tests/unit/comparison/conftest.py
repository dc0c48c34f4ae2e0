"""Rows by hand, and comparisons of them."""

import pytest

from shoal.comparison import Comparison, Row
from shoal.plan import Plan
from shoal.result import Measurement


@pytest.fixture
def make_row(make_chain):
    """Return a function that makes the row of a method whose network has these losses."""

    def make(method, losses, *, removed=(1,), budget="units=3", seed=0, latency=0.5, before=None):
        unhealed = losses if before is None else before
        return Row(
            method=method,
            budget=budget,
            seed=seed,
            control=method == "random",
            plan=Plan.removing(make_chain(), removed, method=method),
            asked={"loss": 3},
            seconds=0.5,
            own_weights=False,
            measured=Measurement(
                params=10, macs=100, latency=latency, quality={"loss": sum(unhealed) / len(unhealed)}
            ),
            latency_whole=None if latency is None else 1.0,
            healed=None if before is None else {"loss": sum(losses) / len(losses)},
            losses=tuple(losses),
            unhealed_losses=() if before is None else tuple(before),
        )

    return make


@pytest.fixture
def make(make_row):
    """Return a function that makes a comparison of these rows."""

    def build(*rows, failures=()):
        whole = make_row("whole", [0.0, 0.0, 0.0], removed=(), budget="")
        return Comparison(
            whole=(whole,),
            rows=rows,
            failures=failures,
            weights=(1.0, 1.0, 1.0),
            settings={"seeds": [0], "heal_seeds": 1, "heal": None, "granularity": "block"},
        )

    return build
