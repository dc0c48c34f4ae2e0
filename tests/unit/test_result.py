import json

import numpy as np
import pytest

from shoal.errors import ConfigError, DataError
from shoal.plan import Plan
from shoal.result import CompressionResult, Evidence, Measurement
from shoal.segmentation import segment_similarity
from shoal.tables import LatencyTable

LATENCY = LatencyTable(units=(0.1, 0.2, 0.3, 0.4), whole=1.1, device="CPU, 2 threads")


def evidence_of(chain, latency=None):
    length = len(chain)
    boundary = np.exp(-np.abs(np.subtract.outer(np.arange(length + 1.0), np.arange(length + 1.0))))
    angles = np.full((length, length + 1), np.nan)
    angles[:, -1] = 0.25
    return Evidence(
        chain=chain,
        boundary_similarity=boundary,
        angular_distance=angles,
        block_influence=2 * angles,
        importance={"drop": np.array([np.nan, *range(1, length)])},
        segmentation=segment_similarity(boundary[1:, 1:]),
        data={"samples": 64, "memorised": False},
        latency=latency,
    )


@pytest.mark.parametrize("latency", [None, LATENCY])
def test_evidence_survives_json(make_chain, latency):
    evidence = evidence_of(make_chain(), latency)
    again = Evidence.from_json(json.loads(json.dumps(evidence.as_json(), allow_nan=False)), make_chain())
    np.testing.assert_array_equal(again.boundary_similarity, evidence.boundary_similarity)
    np.testing.assert_array_equal(again.angular_distance, evidence.angular_distance)
    np.testing.assert_array_equal(again.block_influence, evidence.block_influence)
    np.testing.assert_array_equal(again.importance["drop"], evidence.importance["drop"])
    assert (again.segmentation, again.data, again.latency) == (
        evidence.segmentation,
        evidence.data,
        evidence.latency,
    )


def test_evidence_of_one_unit_survives_json(make_chain):
    chain = make_chain((10,))
    again = Evidence.from_json(json.loads(json.dumps(evidence_of(chain).as_json())), chain)
    assert (again.similarity.shape, again.angular_distance.shape) == ((1, 1), (1, 2))


def test_the_similarity_of_units_leaves_out_what_goes_into_the_first(make_chain):
    evidence = evidence_of(make_chain())
    np.testing.assert_array_equal(evidence.similarity, evidence.boundary_similarity[1:, 1:])


def test_segments_are_those_of_the_segmentation(make_chain):
    evidence = evidence_of(make_chain())
    assert evidence.segments(2) == evidence.segmentation.segments(2)
    with pytest.raises(ConfigError, match="asked for 5 segments of 4 units"):
        evidence.segments(5)


def test_evidence_of_another_network_is_refused(make_chain):
    fields = evidence_of(make_chain()).as_json()
    with pytest.raises(DataError, match="evidence of 4 units on Net with 2: .* another model"):
        Evidence.from_json(fields, make_chain((1, 2)))
    with pytest.raises(DataError, match="evidence of 0 units"):
        Evidence.from_json({}, make_chain())


def test_a_measurement_is_written_as_json():
    measured = Measurement(params=3, macs=5, uncounted={"aten::sin": 2}, quality={"loss": 0.5})
    assert json.loads(json.dumps(measured.as_json())) == {
        "params": 3,
        "macs": 5,
        "latency": None,
        "latency_spread": None,
        "memory": None,
        "device": "",
        "uncounted": {"aten::sin": 2},
        "quality": {"loss": 0.5},
    }
    assert hash(measured) == hash(Measurement(params=3, macs=5))


def test_evidence_and_results_are_compared_as_objects(make_chain):
    # Arrays and models have no truth value to compare by.
    first, second = evidence_of(make_chain()), evidence_of(make_chain())
    assert first == first
    assert first != second
    plan, cost = Plan.removing(make_chain(), []), Measurement(params=1, macs=1)
    results = [
        CompressionResult(model=None, plan=plan, evidence=part, before=cost, after=cost)
        for part in (first, second)
    ]
    assert results[0] != results[1]
    assert len({*results, first, second}) == 4
