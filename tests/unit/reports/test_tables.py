from pathlib import Path

import numpy as np
import pytest

from shoal.reports import (
    checks_table,
    comparison_table,
    data_line,
    evidence_table,
    measurements_table,
    quality_table,
    segments_table,
    units_table,
)
from shoal.result import Evidence, Measurement
from shoal.segmentation import segment_similarity
from shoal.surgery import Check, Verification
from shoal.units import Chain, Unit


def chain_of(length):
    units = tuple(
        Unit(
            name=f"blocks.{i}",
            index=i,
            modules=(f"blocks.{i}",),
            container="blocks",
            group="blocks",
            kind="Block",
            params=100,
            macs=1000,
            removable=i > 0,
            why="" if i else "it changes the shape",
        )
        for i in range(length)
    )
    return Chain(units=units, model="Net", params=1000, macs=10_000, uncounted={"aten::fft": 2})


def evidence_of(length):
    return Evidence(
        chain=chain_of(length),
        boundary_similarity=np.eye(length + 1),
        angular_distance=np.zeros((length, length + 1)),
        block_influence=np.zeros((length, length + 1)),
        importance={"drop_estimate": np.arange(length, dtype=float), "gradnorm": np.full(length, np.nan)},
        segmentation=segment_similarity(np.eye(length)),
        data={"samples": 8, "batches": 2, "loss": 0.5, "memorised": False},
    )


def measured(**more):
    return Measurement(**{"params": 1000, "macs": 10_000, "latency": 0.01, "latency_spread": 0.001} | more)


def consistent(table):
    return all(len(row) == len(table.columns) for row in table.rows)


@pytest.mark.parametrize("length", [1, 4])
def test_units_are_told_with_why_not(length):
    table = units_table(chain_of(length))
    assert len(table.rows) == length
    assert consistent(table)
    assert table.rows[0][-2:] == ("no", "it changes the shape")
    assert table.notes == ("MACs leave out: aten::fft × 2",)


@pytest.mark.parametrize("length", [1, 4])
def test_evidence_has_a_row_a_unit_and_a_column_a_score(length):
    table = evidence_table(evidence_of(length))
    assert len(table.rows) == length
    assert consistent(table)
    assert table.rows[0][-1] == "-"


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (3, 3), (9, 6)])
def test_segments_are_told_for_a_few_numbers_of_them(length, rows):
    table = segments_table(evidence_of(length))
    assert len(table.rows) == rows
    assert table.rows[0][2] == f"[0, {length})"


def test_memorised_data_is_named_as_such():
    data = {"source": "x.npz", "samples": 8, "batches": 2, "loss": 0.001, "memorised": True}
    assert "MEMORISED" in data_line(data)
    assert "no scores by gradients" in data_line({"batches": 2, "loss": None, "memorised": None})


def test_tokens_that_were_compared_are_told():
    line = data_line({"samples": 8, "batches": 2, "rows": "tokens", "compared": 1000, "loss": 1.0})
    assert "1,000 tokens compared" in line


def test_before_and_after_are_compared_with_ratios():
    before = measured(quality={"accuracy": 0.9, "accuracy_low": 0.8, "loss": 1.0, "samples": 5})
    after = measured(params=500, latency=0.005, quality={"accuracy": 0.85, "loss": 2.0, "samples": 5})
    table = comparison_table(before, after, samples=2)
    rows = {row[0]: row[1:] for row in table.rows}
    assert consistent(table)
    assert rows["parameters"][2] == rows["latency"][2] == "0.500"
    assert rows["accuracy"] == ("90.0 %", "85.0 %", "-5.0 pts")
    assert "samples" not in rows
    assert table.notes[0].startswith("of one call with 2 samples")


def test_without_latency_there_is_a_dash():
    table = comparison_table(measured(latency=None), measured(latency=None))
    assert table.rows[2] == ("latency", "-", "-", "-")


def test_networks_are_compared_with_the_first():
    table = measurements_table({"a": measured(), "b": measured(latency=0.02)})
    assert [row[4] for row in table.rows] == ["1.000", "2.000"]
    assert consistent(table)


def test_quality_tells_its_interval():
    table = quality_table(
        {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "samples": 1200}, title="q"
    )
    assert table.rows == (("accuracy", "50.0 % (95 %: 40.0 to 60.0)"), ("samples", "1,200"))


@pytest.mark.parametrize(
    ("quality", "row"),
    [
        (
            {"loss": 2.5, "loss_se": 0.1, "loss_low": 2.3, "loss_high": 2.7},
            ("loss", "2.5 (95 %: 2.3 to 2.7)"),
        ),
        (
            {"perplexity": 12.18, "perplexity_low": 9.974, "perplexity_high": 14.88},
            ("perplexity", "12.18 (95 %: 9.974 to 14.88)"),
        ),
        (
            {"agreement_exact": 0.5, "agreement_exact_low": 0.25, "agreement_exact_high": 0.75},
            ("agreement_exact", "50.0 % (95 %: 25.0 to 75.0)"),
        ),
        ({"answer_prefix": 0.125}, ("answer_prefix", "12.5 %")),
        ({"answer_prompts": 1234}, ("answer_prompts", "1,234")),
        ({"boolq/acc": 0.5, "boolq/acc_stderr": 0.0123}, ("boolq/acc", "0.5 ± 0.0123 (standard error)")),
        ({"loss": 2.5}, ("loss", "2.5")),
    ],
)
def test_a_figure_is_told_in_its_unit_with_how_sure_it_is(quality, row):
    assert quality_table(quality, title="q").rows == (row,)


def test_what_says_how_sure_a_figure_is_has_no_row_of_its_own():
    quality = {
        "loss": 1.0, "loss_se": 0.1, "loss_low": 0.8, "loss_high": 1.2,
        "continuation_exact": 0.5, "continuation_prefix": 0.75, "continuation_prompts": 8,
    }  # fmt: skip
    table = comparison_table(measured(quality=quality), measured(quality=quality))
    rows = {row[0]: row[1:] for row in table.rows[4:]}
    assert rows == {
        "loss": ("1", "1", "1.000"),
        "continuation_exact": ("50.0 %", "50.0 %", "+0.0 pts"),
        "continuation_prefix": ("75.0 %", "75.0 %", "+0.0 pts"),
    }


def test_checks_say_what_was_not_checked():
    checks = tuple(Check(name=n, passed=p, detail="d") for n, p in (("a", True), ("b", False), ("c", None)))
    table = checks_table(Verification(folder=Path("out"), checks=checks))
    assert [row[1] for row in table.rows] == ["ok", "FAILED", "not checked"]
