import pytest

from shoal.errors import ConfigError, PlanError
from shoal.plan import ModelSummary, Plan, Remove
from shoal.surgery.rekeying import Moves, refit_config

ASKED = "asked to re-key the adapter 'a'"
WEIGHT = "q_proj.lora_A.weight"


def plan_of(*lists, removal="delete"):
    """A plan for lists `(path, length, numbers that go)`."""
    units = [(f"{path}.{number}", number in gone) for path, length, gone in lists for number in range(length)]
    summary = ModelSummary(
        name="Net", params=1, macs=1, units=tuple(name for name, _ in units), unit_params=(1,) * len(units)
    )
    steps = [
        Remove(unit=name, index=index, modules=(name,), removal=removal)
        for index, (name, goes) in enumerate(units)
        if goes
    ]
    return Plan(model=summary, steps=tuple(steps))


def moves_of(plan, *paths):
    return Moves(plan, [f"{path}.{WEIGHT}" for path in paths], ASKED)


PLAIN = plan_of(("model.layers", 12, {1, 10}))
SIDES = plan_of(("encoder.block", 4, {0}), ("decoder.block", 4, {1, 2}))
ONE_SIDE = plan_of(("encoder.block", 4, {}), ("decoder.block", 4, {1}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.layers.0.q", "model.layers.0.q"),
        ("model.layers.1.q", None),
        ("model.layers.2", "model.layers.1"),
        ("model.layers.10", None),
        ("model.layers.11.experts.11.w1", "model.layers.9.experts.11.w1"),
        ("model.layers_1.q", "model.layers_1.q"),
        ("model.norm", "model.norm"),
        ("other.layers.1.q", "other.layers.1.q"),
    ],
)
def test_a_module_moves_with_its_layer(old, new):
    assert moves_of(PLAIN, "model.layers.0").of(old) == new


def test_every_list_has_numbers_of_its_own():
    moves = moves_of(SIDES, "encoder.block.1", "decoder.block.3")
    assert [moves.of(f"{side}.block.3.q") for side in ("encoder", "decoder")] == [
        "encoder.block.2.q",
        "decoder.block.1.q",
    ]


def test_stand_ins_keep_the_numbers_of_the_others():
    moves = moves_of(plan_of(("layers", 4, {1}), removal="bypass"), "layers.0")
    assert [moves.of(f"layers.{number}.q") for number in range(3)] == ["layers.0.q", None, "layers.2.q"]
    assert moves.of("layers.10.q") == "layers.10.q"


@pytest.mark.parametrize(
    ("plan", "path", "old", "new"),
    [
        (PLAIN, "layers.0", "layers.2.q", "layers.1.q"),
        (plan_of(("layers", 12, {1})), "model.layers.0", "model.layers.2.q", "model.layers.1.q"),
        (PLAIN, "lm_head", "lm_head", "lm_head"),
    ],
    ids=["the network inside", "the network around", "no layers"],
)
def test_names_may_lack_or_have_a_part_in_front(plan, path, old, new):
    assert moves_of(plan, path).of(old) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("q_proj", "q_proj"),
        ("layers.2.q_proj", "model.layers.1.q_proj"),
        ("model.layers.2.q_proj", "model.layers.1.q_proj"),
        ("layers.1.q_proj", None),
        ("experts.1.w1", "experts.1.w1"),
    ],
)
def test_the_end_of_a_name_is_completed_where_it_names_a_layer(old, new):
    assert moves_of(PLAIN, "model.layers.0").of_end(old) == new


@pytest.mark.parametrize("plan", [SIDES, ONE_SIDE])
@pytest.mark.parametrize("name", ["2.q_proj", "block.2.q_proj"])
def test_an_end_that_fits_several_lists_is_refused(name, plan):
    moves = moves_of(plan, "encoder.block.0")
    with pytest.raises(
        ConfigError, match=f"names '{name}', which may be in 'decoder.block', 'encoder.block'"
    ):
        moves.of_end(name)


def test_lists_of_other_names_are_refused():
    with pytest.raises(PlanError, match=r"layers are in 'model.layers', the adapter's in 'transformer.h'"):
        moves_of(PLAIN, "transformer.h.0")


def test_lists_that_may_be_several_of_the_plan_s_are_refused():
    with pytest.raises(ConfigError, match="adapter's in 'audio.layers', 'text.layers'"):
        moves_of(plan_of(("layers", 4, {1})), "audio.layers.0", "text.layers.0")


def test_more_layers_than_the_plan_knows_are_refused():
    with pytest.raises(PlanError, match=r"layer 12 of 'model.layers', and the last one .* is 11"):
        moves_of(PLAIN, "model.layers.12")


class TestConfig:
    MODULES = tuple(f"model.layers.{number}.self_attn" for number in (0, 1, 2))

    def refit(self, plan=PLAIN, **fields):
        return refit_config(fields, moves_of(plan, *self.MODULES))

    def test_stays_where_nothing_is_removed(self):
        fields = {"target_modules": r".*\.1\..*", "rank_pattern": {r".*\.1\..*": 2}}
        assert self.refit(plan_of(("model.layers", 4, {})), **fields) == fields

    @pytest.mark.parametrize("names", [["q_proj", "fc1"], "all-linear"])
    def test_stays_where_names_have_no_numbers(self, names):
        assert self.refit(target_modules=names) == {"target_modules": names}

    @pytest.mark.parametrize(
        "fields",
        [
            {"target_modules": ".*q_proj"},
            {"target_modules": ["layers.0.self_attn.q_proj"]},
            {"target_modules": ["q_proj"], "layers_to_transform": 0},
            {"target_modules": ["q_proj"], "layers_to_transform": [0, 1], "layers_pattern": ["layers"]},
            {"target_modules": ["q_proj"], "exclude_modules": ["layers.3.self_attn.q_proj"]},
            {"target_modules": ["q_proj"], "exclude_modules": ".*3.*"},
        ],
    )
    def test_lists_the_modules_where_they_went_by_numbers(self, fields):
        assert self.refit(**fields) == {
            "target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"],
            "exclude_modules": None,
            "layers_to_transform": None,
            "layers_pattern": None,
        }

    def test_ranks_go_with_their_modules(self):
        ranks = {"^model.layers.2.q_proj$": 4, r"model\.layers\.1\.q_proj": 8, "v_proj": 2, ".*k_proj": 3}
        expected = {"model.layers.1.q_proj": 4, "v_proj": 2, ".*k_proj": 3}
        assert self.refit(rank_pattern=ranks)["rank_pattern"] == expected

    def test_patterns_of_numbers_are_refused(self):
        with pytest.raises(ConfigError, match=r"has the pattern 'layers\.\(1\|2\)', which may mean layers"):
            self.refit(alpha_pattern={"layers.(1|2)": 4})
