from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.architectures import fields
from shoal.architectures.fields import ABOUT_PARTS, FIELDS, declare, undeclared
from shoal.architectures.rules import Indices, Inexpressible, Rule, Slice
from shoal.errors import ConfigError

LENGTH = 6


def cut(name: str, kept: list[int], **values: Any) -> dict[str, Any]:
    return FIELDS[name].cut(values.get, LENGTH, kept)


@pytest.mark.parametrize(
    ("name", "values", "kept", "expected"),
    [
        ("layer_types", {"layer_types": list("abcdef")}, [0, 3], {"layer_types": ["a", "d"]}),
        ("no_rope_layers", {"no_rope_layers": (1, 1, 0, 1, 1, 0)}, [2, 3], {"no_rope_layers": (0, 1)}),
        (
            "hybrid_override_pattern",
            {"hybrid_override_pattern": "M*-M*-"},
            [1, 5],
            {"hybrid_override_pattern": "*-"},
        ),
        ("intermediate_size", {"intermediate_size": 64}, [1], {}),
        ("sliding_window", {"sliding_window": None}, [1], {}),
        ("block_types", {"block_types": ("r", "r", "a")}, [1, 2, 5], {"block_types": ("r", "a", "a")}),
        (
            "attention_types",
            {"attention_types": [[["g", "l"], 3]]},
            [0, 3, 4],
            {"attention_types": [[["g", "l", "g"], 1]]},
        ),
        ("full_attn_idxs", {"full_attn_idxs": [2, 5]}, [0, 2, 3], {"full_attn_idxs": [1]}),
        ("moe_layers", {"moe_layers": []}, [0, 2, 3], {"moe_layers": []}),
        ("out_indices", {"out_indices": (1, -1)}, [1, 3, 5], {"out_indices": (0, 2)}),
        ("extract_layers", {"extract_layers": [1, 6]}, [0, 1, 2], {"extract_layers": [1, 3]}),
        ("num_blocks", {"num_blocks": 2}, [0, 1, 5], {"num_blocks": 1}),
        ("first_k_dense_replace", {"first_k_dense_replace": 3}, [0, 2, 4], {"first_k_dense_replace": 2}),
        ("max_window_layers", {"max_window_layers": 28}, [0, 2], {"max_window_layers": 2}),
        ("num_kv_shared_layers", {"num_kv_shared_layers": 2}, [0, 3, 4], {"num_kv_shared_layers": 1}),
        ("num_kv_shared_layers", {"num_kv_shared_layers": 0}, [0, 3, 4], {"num_kv_shared_layers": 0}),
        ("num_nextn_predict_layers", {"num_nextn_predict_layers": 1}, [0], {"num_nextn_predict_layers": 0}),
        ("num_nextn_predict_layers", {}, [0], {}),
        (
            "kv_source_layers",
            {"kv_source_layers": [0, 0, 2, 3, 3, 3]},
            [0, 1, 3, 5],
            {"kv_source_layers": [0, 0, 2, 2]},
        ),
        ("scale_depth", {"scale_depth": 3.0}, [0, 1, 2, 3, 4, 5], {"scale_depth": 3.0}),
    ],
)
def test_a_field_follows_by_its_rule(name, values, kept, expected):
    found = cut(name, kept, **values)
    assert found == pytest.approx(expected) if name == "scale_depth" else found == expected


@pytest.mark.parametrize(
    ("name", "values", "kept", "reason"),
    [
        ("layer_types", {"layer_types": ["a"]}, [0], "layer_types has 1 entries for 6 layers"),
        ("attention_types", {"attention_types": [[["g"], 2]]}, [0], "the kinds of 2 of 6 layers"),
        ("extract_layers", {"extract_layers": [1, 4]}, [0, 1], r"results of layers \[4\] are handed out"),
        ("kv_source_layers", {"kv_source_layers": [0, 0, 2, 3, 3, 3]}, [0, 4], r"what layers \[3\] keep"),
        ("attn_layer_period", {"attn_layer_period": 2, "attn_layer_offset": 0}, [0, 2, 3], "every 2th place"),
        (
            "moe_layer_interval",
            dict.fromkeys(("moe_layer_interval",), 2)
            | {"moe_layer_start_index": 0, "moe_layer_end_index": 5},
            [1, 2, 3, 5],
            "every 2th place",
        ),
    ],
)
def test_what_a_field_cannot_say_is_told(name, values, kept, reason):
    with pytest.raises(Inexpressible, match=reason):
        cut(name, kept, **values)


def is_sparse(values: dict[str, Any], index: int) -> bool:
    return index not in values["mlp_only_layers"] and (index + 1) % values["decoder_sparse_step"] == 0


@pytest.mark.parametrize("kept", [[0], [1, 3, 5], [0, 1, 2, 3, 4, 5], [2, 3]])
def test_hidden_states_are_those_of_a_network_whose_layers_are_bypassed(kept):
    bypassed = [0]
    for layer in range(LENGTH):
        bypassed.append(layer + 1 if layer in kept else bypassed[-1])
    small = [0, *(layer + 1 for layer in kept)]
    rule = ABOUT_PARTS["vision_feature_layer"][1]
    for index in range(-LENGTH - 1, LENGTH + 1):
        found = rule.cut({"vision_feature_layer": index}.get, LENGTH, kept)["vision_feature_layer"]
        assert small[found] == bypassed[index], index
        assert (found < 0) == (index < 0)
    several = rule.cut({"vision_feature_layer": [-2, 3]}.get, LENGTH, kept)["vision_feature_layer"]
    assert [small[index] for index in several] == [bypassed[-2], bypassed[3]]


@given(
    st.integers(1, 4),
    st.sets(st.integers(0, LENGTH - 1)),
    st.sets(st.integers(0, LENGTH - 1), min_size=1),
)
def test_a_step_and_the_layers_without_experts_say_any_cut(step, dense, left):
    values = {"decoder_sparse_step": step, "mlp_only_layers": sorted(dense)}
    kept = sorted(left)
    after = values | FIELDS["decoder_sparse_step"].cut(values.get, LENGTH, kept)
    assert [is_sparse(after, new) for new in range(len(kept))] == [is_sparse(values, old) for old in kept]


@pytest.mark.parametrize(("period", "offset"), [(1, 0), (2, 0), (2, 1), (3, 2), (5, 4), (9, 8)])
def test_a_period_is_found_exactly_where_there_is_one(period, offset):
    for size in range(1, LENGTH + 1):
        for kept in map(list, combinations(range(LENGTH), size)):
            kinds = [index % period == offset for index in kept]
            possible = any(
                [place % p == o for place in range(size)] == kinds for p in range(1, 99) for o in range(p)
            )
            try:
                found = cut("attn_layer_period", kept, attn_layer_period=period, attn_layer_offset=offset)
            except Inexpressible:
                assert not possible, kept
                continue
            p, o = found["attn_layer_period"], found["attn_layer_offset"]
            assert [place % p == o for place in range(size)] == kinds


def test_a_period_without_an_offset_counts_from_its_field_s_place():
    assert cut("cross_layer_interval", [0, 2, 4], cross_layer_interval=2) == {"cross_layer_interval": 1}
    assert cut("encoder_sparse_step", [1, 3], encoder_sparse_step=2) == {"encoder_sparse_step": 1}
    assert cut("encoder_sparse_step", [0, 1, 3], encoder_sparse_step=1) == {"encoder_sparse_step": 1}


@pytest.mark.parametrize("kept", [[0], [1, 3, 5], [0, 2, 4], [2, 3, 4, 5], list(range(LENGTH))])
def test_an_interval_between_two_layers_says_the_same_kinds(kept):
    before = {"moe_layer_interval": 2, "moe_layer_start_index": 1, "moe_layer_end_index": -1}
    after = FIELDS["moe_layer_interval"].cut(before.get, LENGTH, kept)
    kinds = [index >= 1 and (index + 1) % 2 == 0 for index in kept]
    first, last = after["moe_layer_start_index"], after["moe_layer_end_index"]
    every = after["moe_layer_interval"]
    assert [first <= at <= last and (at + 1) % every == 0 for at in range(len(kept))] == kinds


def test_the_stages_of_a_backbone_are_numbered_anew():
    values = {"stage_names": ["stem", *"abcdef"], "_out_indices": [2, 6]}
    assert cut("stage_names", [0, 2, 5], **values) == {
        "stage_names": ["stem", "stage1", "stage2", "stage3"],
        "_out_features": ["stage1", "stage3"],
        "_out_indices": [1, 3],
    }
    assert cut("stage_names", [0], stage_names=["stem", "a"]) == {}


def test_overrides_of_single_layers_follow_them():
    spec = SimpleNamespace(per_layer_overrides={0: {"skip": ["mlp"]}, 4: {"head_dim": 8}})
    assert cut("_heterogeneity_spec", [3, 4], _heterogeneity_spec=spec) == {
        "per_layer_config": {1: {"head_dim": 8}}
    }


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [None, 7, "word", {}])
def test_a_field_that_is_not_there_or_of_another_kind_changes_nothing_else(name, value):
    rule: Rule = FIELDS[name]
    found = rule.cut({name: value}.get, LENGTH, [0, 2])
    assert found.keys() <= {name}


def test_a_list_as_long_as_the_network_without_a_rule_is_named():
    config = {"layer_types": [0] * LENGTH, "odd": [0] * LENGTH, "short": [0], "by_layer": {0: 1, 5: 2}}
    assert undeclared(config, LENGTH) == ["odd", "by_layer"]
    assert undeclared(config, LENGTH - 1) == []
    assert undeclared({"id2label": {0: "a"}, "stage_names": [1, 2]}, 2) == []


def test_a_rule_may_be_declared_once(monkeypatch):
    monkeypatch.setattr(fields, "FIELDS", dict(FIELDS))
    declare("odd", Slice("odd"))
    assert fields.FIELDS["odd"].cut({"odd": [1, 2]}.get, 2, [1]) == {"odd": [2]}
    with pytest.raises(ConfigError, match=r"a rule for the field 'odd': it has one, Slice"):
        declare("odd", Indices("odd"))
