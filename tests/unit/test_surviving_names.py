import pytest

from shoal.plan import ModelSummary, Plan, Remove


def plan(units: list[str], removed: dict[str, tuple[str, ...]], *, removal: str = "delete") -> Plan:
    summary = ModelSummary(name="Net", params=0, macs=0, units=tuple(units), unit_params=(0,) * len(units))
    steps = [
        Remove(unit=name, index=units.index(name), modules=modules, removal=removal)
        for name, modules in removed.items()
    ]
    return Plan(model=summary, steps=tuple(steps))


LAYERS = [f"model.layers.{number}" for number in range(12)]


@pytest.mark.parametrize("removed", [[], [0], [11], [2, 3, 10], list(range(12))])
def test_units_move_down_by_what_left_before_them(removed):
    made = plan(LAYERS, {LAYERS[i]: (LAYERS[i],) for i in removed})
    kept = [i for i in range(12) if i not in removed]
    assert made.surviving_names == {LAYERS[old]: LAYERS[new] for new, old in enumerate(kept)}


def test_only_their_own_list_counts():
    units = ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2"]
    made = plan(units, {"layer1.0": ("layer1.0",), "layer2.1": ("layer2.1",)})
    assert made.surviving_names == {"layer1.1": "layer1.0", "layer2.0": "layer2.0", "layer2.2": "layer2.1"}


def test_a_run_moves_by_all_its_entries():
    units = ["features.0:3", "features.3:6", "features.7:10"]
    made = plan(units, {"features.3:6": ("features.3", "features.4", "features.5")})
    assert made.surviving_names == {"features.0:3": "features.0:3", "features.7:10": "features.4:7"}


def test_units_inside_a_moved_entry_move_with_it():
    units = ["stages.0", "stages.1.blocks.0", "stages.1.blocks.1"]
    made = plan(units, {"stages.0": ("stages.0",), "stages.1.blocks.0": ("stages.1.blocks.0",)})
    assert made.surviving_names == {"stages.1.blocks.1": "stages.0.blocks.0"}


def test_a_bypassed_unit_leaves_the_others_where_they_are():
    made = plan(LAYERS, {LAYERS[3]: (LAYERS[3],)}, removal="bypass")
    assert made.surviving_names == {name: name for name in LAYERS if name != LAYERS[3]}


def test_entries_with_names_keep_them():
    units = ["body.first", "body.second"]
    assert plan(units, {"body.first": ("body.first",)}).surviving_names == {"body.second": "body.second"}
