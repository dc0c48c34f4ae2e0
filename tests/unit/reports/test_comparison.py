from dataclasses import replace

import pytest

from shoal.comparison import Comparison, Failure, Row
from shoal.errors import DataError
from shoal.plan import Merge, Plan
from shoal.reports import (
    comparison_page,
    drawn_qualities,
    save_figure,
    standings_figure,
    standings_points,
    standings_tables,
)
from shoal.result import Measurement


@pytest.fixture
def make_row(make_chain):
    """Return a function that makes a row: a network of so many units, with this loss."""

    def make(method, loss, *, removed=(1,), budget="units=3", seed=0, before=None, latency=0.5, **fields):
        plan = Plan.removing(make_chain([100] * 4, rest=0), removed, method=method)
        quality = {"loss": loss, "accuracy": 0.912, "accuracy_low": 0.894, "accuracy_high": 0.927}
        unhealed = quality | {"loss": loss if before is None else before}
        known = {
            "method": method,
            "budget": budget,
            "seed": seed,
            "control": method in ("whole", "random", "last"),
            "plan": plan,
            "asked": {},
            "seconds": 0.25,
            "own_weights": False,
            "measured": Measurement(
                params=plan.predicted["params"],
                macs=plan.predicted["macs"],
                latency=latency,
                device="one CPU",
                quality=unhealed,
            ),
            "latency_whole": 1.0,
            "healed": None if before is None else quality,
            "losses": (loss - 0.1, loss + 0.1),
            "unhealed_losses": () if before is None else (before - 0.1, before + 0.1),
        }
        return Row(**known | fields)

    return make


@pytest.fixture
def build(make_row):
    """Return a function that makes a comparison of rows, with a whole network of the loss 0.3."""

    def make(*rows, heal=None, failures=(), latency=0.98, **fields):
        before = None if heal is None else 0.32
        whole = make_row("whole", 0.3, removed=(), budget="", before=before, latency=latency)
        return Comparison(
            whole=(whole,),
            rows=rows,
            failures=failures,
            weights=(1.0, 1.0),
            settings={"seeds": [0, 1], "heal_seeds": 1, "heal": heal, "granularity": "block"},
            **fields,
        )

    return make


def cells(table, method):
    (row,) = (row for row in table.rows if row[0] == method)
    return dict(zip((name for name, _ in table.columns), row, strict=True))


def test_a_row_tells_what_is_left_what_it_costs_and_how_well_it_does(build, make_row):
    (table,) = standings_tables(build(make_row("sglp", 0.41, asked={"pass": 1, "loss": 23})))
    assert cells(table, "sglp") == {
        "method": "sglp",
        "units": "3",
        "params": "0.750",
        "MACs": "0.750",
        "latency": "0.500",
        "loss": "* 0.41",
        "accuracy %": "91.2 (89.4–92.7)",
        "asked for": "1 pass, 23 loss",
    }
    assert cells(table, "whole network")["latency"] == "0.980"


def test_the_best_comes_first_controls_stand_in_brackets_and_what_is_as_good_is_marked(build, make_row):
    rows = [
        make_row("bad", 0.9, losses=(0.9, 0.9)),
        make_row("last", 0.5, losses=(0.4, 0.6)),
        make_row("near", 0.5, losses=(0.7, 0.4)),
    ]
    (table,) = standings_tables(build(*rows))
    assert [(row[0], row[5]) for row in table.rows] == [
        ("whole network", "0.3"),
        ("(last)", "* 0.5"),
        ("near", "* 0.5"),
        ("bad", "0.9"),
    ]
    assert any("within one standard error" in note and "2 judged samples" in note for note in table.notes)


def test_loss_is_shown_before_and_after_healing(build, make_row):
    rows = [
        make_row("sglp", 0.41, before=0.6),
        make_row("sleb", 0.5, before=0.5, removed=(2,)),
        make_row("random", 0.7, before=0.8),
        make_row("random", 0.7, before=0.9, seed=1),
    ]
    (table,) = standings_tables(build(*rows, heal={"epochs": 1}))
    assert (cells(table, "sglp")["loss"], cells(table, "sglp")["healed"]) == ("0.6", "* 0.41")
    assert (cells(table, "sleb")["loss"], cells(table, "sleb")["healed"]) == ("* 0.5", "0.5")
    random = cells(table, "(random)")
    assert (random["loss"], random["healed"]) == ("0.85 ±0.071", "0.7")
    assert (cells(table, "whole network")["loss"], cells(table, "whole network")["healed"]) == ("0.32", "0.3")


@pytest.mark.parametrize(
    ("asked", "settings", "told"),
    [
        ({"healing": 9}, {"heal": {"epochs": 200}}, "cka (9 × healing with epochs=200)"),
        ({"healing": 1}, {"heal": True}, "cka (1 × healing)"),
        ({}, {}, "cka"),
    ],
)
def test_methods_that_trained_while_they_chose_are_marked(build, make_row, asked, settings, told):
    row = make_row("cka", 0.4, own_weights=True, asked=asked)
    trained = replace(row, plan=replace(row.plan, settings=settings))
    (table,) = standings_tables(build(trained, make_row("last", 0.5, own_weights=True), make_row("sglp", 1)))
    assert [row[0] for row in table.rows] == ["whole network", "cka †", "(last)", "sglp"]
    (note,) = (note for note in table.notes if note.startswith("†"))
    assert note == f"†: had training of its own while it chose, which the others lack: {told}"
    assert "healing" not in cells(table, "cka †")["asked for"]
    labels = [point.label for point in standings_points(build(trained, make_row("cka", 1, budget="units=2")))]
    assert labels == ["whole network", "cka (own training)", "cka (own training)"]


def test_the_spread_over_seeds_is_shown(build, make_row):
    rows = [
        make_row("random", 0.5, seed=0, asked={"loss": 2}),
        make_row("random", 0.7, seed=1, removed=(1, 2), asked={"loss": 3}),
    ]
    (table,) = standings_tables(build(*rows))
    found = cells(table, "(random)")
    assert (found["units"], found["params"], found["loss"], found["asked for"]) == (
        "2–3",
        "0.625",
        "* 0.6 ±0.14",
        "3 loss",
    )
    assert "±: standard deviation over seeds, of which there are up to 2" in table.notes


@pytest.mark.parametrize(
    ("quality", "name", "text"),
    [
        (
            {"perplexity": 12.344, "perplexity_low": 12.0, "perplexity_high": 13},
            "perplexity",
            "12.34 (12–13)",
        ),
        ({"perplexity": 12.344}, "perplexity", "12.34"),
        ({"loss_low": 0.25, "loss_high": 0.35}, "95 %", "0.25–0.35"),
        ({}, "95 %", "-"),
    ],
)
def test_beside_the_loss_stands_what_else_was_measured(build, make_row, quality, name, text):
    def judged(row):
        return replace(row, measured=replace(row.measured, quality={"loss": 0.3, **quality}))

    comparison = build(judged(make_row("sglp", 0.3)))
    (table,) = standings_tables(replace(comparison, whole=tuple(map(judged, comparison.whole))))
    assert cells(table, "sglp")[name] == text


def test_what_could_not_run_is_said_once_with_its_reason(build, make_row):
    failures = [Failure(method="random", budget="units=2", seed=seed, reason="no room") for seed in (0, 1)]
    first, second = standings_tables(
        build(make_row("sglp", 1), make_row("sglp", 1, budget="units=2"), failures=tuple(failures))
    )
    assert second.notes.count("not compared: random: no room") == 1
    assert not any("no room" in note for note in first.notes)


def test_a_budget_that_no_method_met_has_a_table_too(build, make_row):
    failure = Failure(method="sglp", budget="units=1", seed=0, reason="out of reach")
    _, second = standings_tables(build(make_row("sglp", 1), failures=(failure,)))
    assert [row[0] for row in second.rows] == ["whole network"]
    assert "not compared: sglp: out of reach" in second.notes


def test_methods_that_remove_the_same_units_are_named_together(build, make_row):
    rows = [
        make_row("sglp", 1),
        make_row("sleb", 1),
        make_row("last", 1, removed=(3,)),
        make_row("scratch", 1, own_weights=True),
    ]
    (table,) = standings_tables(build(*rows))
    assert [note for note in table.notes if "the same plan" in note] == [
        "the same plan, and so one network: sglp, sleb"
    ]


class TestPlansThatMerge:
    @pytest.fixture
    def make_merged(self, make_row, make_chain):
        """Return a function that makes a row of a method that rewrites some of six layers."""
        inputs = {"shape": [1, 3, 8, 8], "dtype": "float32"}
        chain = replace(make_chain([10] * 6), inputs=inputs)

        def make(method, *kept, fused=True):
            names = tuple(unit.name for unit in chain)
            step = Merge(start=1, stop=4, kept=kept, layers=names[1:4], fused=fused)
            return replace(make_row(method, 0.5), plan=Plan.merging(chain, [step], method=method))

        return make

    def test_say_that_they_count_convolutions(self, build, make_row, make_merged):
        (table,) = standings_tables(build(make_merged("layermerge", 1, 2), make_row("sglp", 1)))
        assert cells(table, "whole network")["units"] == "4"
        assert cells(table, "layermerge")["units"] == "4 of 6 convolutions"
        assert cells(table, "sglp")["units"] == "3"

    def test_are_one_network_only_if_they_merge_alike(self, build, make_merged):
        rows = [
            make_merged("layermerge", 1, 2),
            make_merged("depth_merge", 1, 2, fused=False),
            make_merged("layer_only", 1, 2),
        ]
        (table,) = standings_tables(build(*rows))
        assert [note for note in table.notes if "one network" in note] == [
            "the same plan, and so one network: layermerge, layer_only"
        ]


def test_the_legend_stands_below_the_last_table_alone(build, make_row):
    comparison = build(
        make_row("sglp", 1), make_row("sglp", 1, budget="units=2"), data={"evaluation": "digits:test"}
    )
    first, second = standings_tables(comparison)
    assert len(second.notes) > len(first.notes) + 3
    assert "judged on digits:test" in second.notes
    assert [table.title for table in (first, second)] == [
        "Net at units=3: 1 compared",
        "Net at units=2: 1 compared",
    ]


def test_a_table_fits_a_terminal_of_120_columns(build, make_row):
    rows = [
        make_row(name, loss, before=loss, seed=seed, asked={"loss": 123, "pass": 1}, own_weights=":" in name)
        for name in ("block_influence", "sglp:paper", "random")
        for seed, loss in enumerate((10.234, 11.234))
    ]
    (table,) = standings_tables(build(*rows, heal={"epochs": 1}))
    widths = [
        max(map(len, column)) for column in zip(*table.rows, [n for n, _ in table.columns], strict=True)
    ]
    assert sum(widths) + 3 * (len(widths) - 1) <= 120


def test_points_are_shares_of_latency_with_the_whole_network_at_1(build, make_row):
    rows = [make_row("random", loss, seed=seed) for seed, loss in enumerate((0.5, 0.7))]
    comparison = build(make_row("sglp", 0.41, latency=0.4), *rows, make_row("sglp", 0.6, budget="units=2"))
    points = standings_points(comparison)
    found = [(p.label, p.budget, p.latency, round(p.quality, 6), p.kind) for p in points]
    assert found == [
        ("whole network", "", 1.0, 0.3, "whole"),
        ("sglp", "units=3", 0.4, 0.41, "method"),
        ("random", "units=3", 0.5, 0.6, "control"),
        ("sglp", "units=2", 0.5, 0.6, "method"),
    ]
    assert points[1].spread is None
    assert points[2].spread == pytest.approx(0.02**0.5)
    assert {point.quality for point in standings_points(comparison, "accuracy")} == {0.912}


def test_a_figure_is_drawn_of_every_quality_that_was_measured(tmp_path, build, make_row):
    comparison = build(make_row("sglp", 41), make_row("last", 0.5))
    assert drawn_qualities(comparison) == ("loss", "accuracy")
    loss, accuracy = (standings_figure(comparison, quality) for quality in ("loss", "accuracy"))
    assert loss.axes[0].get_yscale() == "log"
    assert accuracy.axes[0].get_yscale() == "linear"
    assert loss.axes[0].get_ylabel() == "loss on 2 judged samples (lower is better)"
    assert accuracy.axes[0].get_ylabel().endswith("(higher is better)")
    assert [path.suffix for path in save_figure(loss, tmp_path / "pareto")] == [".png", ".svg"]


@pytest.mark.parametrize(
    ("quality", "latency", "can"), [("perplexity", 1, "loss, accuracy"), ("loss", None, "nothing")]
)
def test_what_was_not_measured_is_not_drawn(build, make_row, quality, latency, can):
    comparison = build(make_row("sglp", 1, latency=latency), latency=latency)
    with pytest.raises(
        DataError, match=f"asked to draw '{quality}' against latency: of this comparison {can} can"
    ):
        standings_points(comparison, quality)


def test_an_infinite_quality_is_not_drawn(build, make_row):
    row = make_row("sglp", 800)
    broken = replace(row, measured=replace(row.measured, quality={"loss": 800, "accuracy": float("inf")}))
    assert drawn_qualities(build(broken)) == ("loss",)


def test_a_page_holds_the_figures_and_every_table(build, make_row):
    comparison = build(make_row("block_influence", 1), make_row("sglp", 1, budget="units=2"))
    page = comparison_page(comparison, ["pareto.svg"])
    assert page.startswith("# Methods compared on Net\n\n![pareto](pareto.svg)\n\n")
    assert page.count("\n| --- |") == 2
    assert "| block\\_influence |" in page
    assert "Pareto" not in comparison_page(comparison)
