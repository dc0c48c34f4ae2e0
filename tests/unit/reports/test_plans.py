from dataclasses import replace

import pytest

from shoal.plan import Merge, Plan
from shoal.reports import certificate_table, plan_table
from shoal.result import Certificate


def consistent(table):
    return all(len(row) == len(table.columns) for row in table.rows)


def test_a_plan_ranks_what_it_removes(make_evidence):
    evidence = make_evidence(4, scores={"drop_estimate": [0, 1, 2, 3]})
    plan = Plan.removing(evidence.chain, [1, 3], predicted={"segments": [[0, 2], [2, 4]]})
    table = plan_table(plan, evidence)
    assert consistent(table)
    assert [row[3] for row in table.rows] == ["[0, 2)", "[2, 4)"]
    assert [row[4] for row in table.rows] == ["1 (2)", "3 (4)"]
    assert "rank" in table.notes[0]
    assert "2 of 4 units" in table.notes[1]


def test_a_plan_that_removes_nothing_has_no_rows(make_chain):
    table = plan_table(Plan.removing(make_chain([10] * 3), []))
    assert table.rows == ()
    assert "remove 0 of 3 units: nothing" in table.title


TIMES = {"latency": 0.6, "latency_before": 1.0, "latency_measured": 0.7, "latency_before_measured": 1.0}


def test_measured_latency_is_told_beside_the_predicted_one(make_chain):
    table = plan_table(Plan.removing(make_chain([10] * 3), [1], predicted=TIMES))
    assert table.notes[-1] == "latency: predicted 0.600 of the original's, measured 0.700"


@pytest.fixture
def merging(make_chain):
    chain = replace(make_chain([10] * 5), inputs={"shape": [1, 3, 8, 8], "dtype": "float32"})
    names = tuple(unit.name for unit in chain)
    steps = [
        Merge(start=0, stop=2, kept=(0, 1), layers=names[:2], added="relu"),
        Merge(start=2, stop=4, kept=(2, 3), layers=names[2:4], fused=False),
        Merge(start=4, stop=5, kept=(), layers=names[4:]),
    ]
    table = {"latency_by_table": 0.55, "latency_folded": 0.9, "added_loss": 0.25}
    counts = {"entries": 9, "entries_measured": 4, "compared_whole": {"merges alone": 0.5}}
    return Plan.merging(chain, steps, predicted=TIMES | table | counts)


def test_a_plan_of_merges_says_what_becomes_of_every_segment(merging):
    table = plan_table(merging)
    assert consistent(table)
    assert [row[0] for row in table.rows] == ["[0, 2)", "[2, 4)", "[4, 5)"]
    assert [row[2] for row in table.rows] == ["1 convolution", "2 in a row", "identity"]
    assert table.rows[0][4] == "relu"
    assert table.rows[2][3] == merging.model.units[4]


def test_a_plan_of_merges_says_what_it_rests_on(merging):
    told = "\n".join(plan_table(merging).notes)
    assert "predicted 0.600 of the original's (0.550 by the table alone), measured 0.700" in told
    assert "0.900 with batch norms folded and nothing merged" in told
    assert "0.25; measured for 4 of 9 ways" in told
    assert "layers merged, none left out: 0.5" in told
    assert "nothing merges" not in told


@pytest.mark.parametrize(
    ("importance", "added", "compared"),
    [
        ("loss, tuned", "added loss, the sum over segments: 0.25", "by the loss after"),
        (
            "gap to the outputs of the original, tuned",
            "added gap to the outputs of the original, as the data has no labels, the sum over segments: 0.2",
            "by the gap to the outputs of the original after",
        ),
    ],
)
def test_what_was_added_up_is_called_by_its_name(merging, importance, added, compared):
    plan = replace(merging, predicted={**merging.predicted, "importance": importance})
    told = "\n".join(plan_table(plan).notes)
    assert added in told
    assert compared in told


def test_a_plan_that_only_folds_says_so(merging):
    first = merging.model.units[0]
    step = Merge(start=0, stop=1, kept=(0,), layers=(first,))
    table = plan_table(replace(merging, steps=(step,)))
    assert table.rows == (("[0, 1)", first, "itself, folded", "-", "-"),)
    assert table.notes[0].endswith(
        "are folded into them, in all layers; nothing merges, and nothing is left out"
    )


@pytest.mark.parametrize("segments", [{}, {"[0, 2)": 1e-16, "[2, 4)": 3e-15}])
def test_the_certificate_names_the_worst_segment(segments):
    table = certificate_table(Certificate(whole=2e-15, segments=segments, drift=0.02))
    assert consistent(table)
    assert table.rows[0] == ("whole network", "2.0e-15")
    assert ["3.0e-15" in row for row in table.rows[1:]] == [True] * bool(segments)
    assert "2.0e-02" in table.notes[-1]
