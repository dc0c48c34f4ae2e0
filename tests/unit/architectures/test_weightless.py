import copy

import pytest
import torch
from torch import nn

from networks import NETWORKS, Residual, feedforward, llama
from shoal.architectures import find_units
from shoal.architectures.weightless import SlimProducts, is_weightless, lent_weights
from shoal.measurement.counting import count_macs

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 64,
}
TEXT = {**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**TEXT, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 8}
IMAGE = {**{k: v for k, v in SIZES.items() if k != "vocab_size"}, "image_size": 16, "patch_size": 4}
EXPERTS = {**WIDE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SEQUENCES = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 3, "num_heads": 4, "vocab_size": 64}
STATES = {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 4, "vocab_size": 64, "time_step_rank": 4}
SOUND = {
    **{
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in (("layers", 3), ("attention_heads", 4), ("ffn_dim", 64))
    },
    "d_model": 32,
    "num_mel_bins": 8,
    "max_source_positions": 8,
    "max_target_positions": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
FAMILIES = {
    "LlamaForCausalLM": GROUPED,
    "Gemma2ForCausalLM": WIDE,
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 4},
    "Qwen3MoeForCausalLM": EXPERTS,
    "MambaForCausalLM": STATES,
    "BertForMaskedLM": TEXT,
    "T5ForConditionalGeneration": SEQUENCES,
    "WhisperForConditionalGeneration": SOUND,
    "ViTForImageClassification": IMAGE,
    "SwinForImageClassification": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [2, 4],
        "num_heads": [2, 2],
        "window_size": 4,
    },
}


def on_meta(cls, config):
    with torch.device("meta"):
        return cls(config)


def without_parameters(cls, config):
    accelerate = pytest.importorskip("accelerate")
    with accelerate.init_empty_weights(include_buffers=False):
        model = cls(config)
    # What is shared is told apart by the way in which Accelerate empties it.
    model.tie_weights()
    return model


def example_of(model):
    if type(model).__name__.startswith("Whisper"):
        return {"input_features": torch.randn(1, 8, 16), "decoder_input_ids": torch.arange(4)[None]}
    return None


@pytest.mark.parametrize("built", [on_meta, without_parameters])
@pytest.mark.parametrize("granularity", ["block", "sublayer"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_skeleton_has_the_units_of_the_model(family, granularity, built):
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, family)
    config = cls.config_class(**FAMILIES[family])
    model = cls(copy.deepcopy(config)).eval()
    expected = find_units(model, example_of(model), granularity=granularity)
    assert find_units(built(cls, config), example_of(model), granularity=granularity) == expected


@pytest.mark.parametrize("granularity", ["block", "sublayer"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_one_s_own_needs_no_weights_either(name, granularity):
    model, example = NETWORKS[name]()
    expected = find_units(model, example, granularity=granularity)
    assert find_units(copy.deepcopy(model).to("meta"), example, granularity=granularity) == expected


def test_a_network_that_fits_in_no_memory_has_units():
    width = 2**18
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(2, width), *(Residual(feedforward(width)) for _ in range(3)))
    chain = find_units(network, torch.ones(1, 2))
    assert chain.removable == (0, 1, 2)
    assert chain.params > 3 * width**2


def test_buffers_that_the_config_decides_have_their_values():
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED))
    built = on_meta(transformers.LlamaForCausalLM, model.config)
    with lent_weights(built):
        assert torch.equal(built.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


class Odd(nn.Module):
    """Shared, recurrent and integer weights, buffers, and a tensor that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.lstm = nn.LSTM(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.words.weight
        self.table = nn.Parameter(torch.zeros(3, 2, dtype=torch.int8), requires_grad=False)
        self.scale = torch.tensor(2.0)
        self.register_buffer("places", torch.arange(3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.lstm(self.words(ids) + self.scale)[0]
        return self.head(self.norm(hidden.flatten(0, 1)))


@pytest.fixture
def odd():
    with torch.device("meta"):
        return Odd()


IDS = torch.tensor([[1, 2, 3]])


def test_weights_are_lent_for_a_while(odd):
    assert is_weightless(odd)
    before = {name: id(value) for name, value in odd.named_parameters(remove_duplicate=False)}
    with lent_weights(odd) as same, torch.no_grad():
        assert same is odd
        assert not is_weightless(odd)
        assert torch.isfinite(odd.eval()(IDS)).all()
    assert is_weightless(odd)
    assert {name: id(value) for name, value in odd.named_parameters(remove_duplicate=False)} == before
    assert odd.scale.is_meta
    assert all(weight.is_meta for weight in odd.lstm._flat_weights)


def test_weights_are_given_back_after_an_error(odd):
    with pytest.raises(KeyError), lent_weights(odd):
        raise KeyError
    assert is_weightless(odd)
    assert all(value.is_meta for value in (*odd.parameters(), *odd.buffers()))


def test_shapes_dtypes_and_shared_weights_stay(odd):
    odd.bfloat16().requires_grad_(False)
    expected = [(name, v.shape, v.dtype, v.requires_grad) for name, v in odd.named_parameters()]
    with lent_weights(odd):
        found = [(name, v.shape, v.dtype, v.requires_grad) for name, v in odd.named_parameters()]
        assert odd.head.weight is odd.words.weight
        assert odd.words.weight.untyped_storage().nbytes() == 6 * 2
    assert found == expected


def test_weights_that_were_made_in_memory_all_the_same_are_not_read(odd):
    odd.head.weight = odd.words.weight = nn.Parameter(torch.full((7, 6), float("nan")))
    with lent_weights(odd), torch.no_grad():
        assert torch.isfinite(odd.eval()(IDS)).all()


def test_a_network_with_weights_is_lent_none():
    network = Odd()
    weight = network.head.weight
    with lent_weights(network):
        assert network.head.weight is weight


def test_a_network_whose_weights_are_brought_when_they_are_needed_is_not_without(odd):
    odd.lstm._hf_hook = object()
    assert not is_weightless(odd)


def test_a_weight_that_a_network_scales_in_place_can_be_scaled(odd):
    with lent_weights(odd), torch.no_grad():
        before = odd.words.weight.clone()
        odd.words.weight.div_(4)
        odd.words.weight.mul_(torch.tensor(2.0))
        assert torch.equal(odd.words.weight, before / 2)


def repeated(rows, columns, along):
    """A matrix of equal rows (0), equal columns (1), of one number (2), or without repetitions (3)."""
    generator = torch.Generator().manual_seed(rows + columns)
    sizes = [(1, columns), (rows, 1), (1, 1), (rows, columns)][along]
    return torch.randn(sizes, generator=generator, dtype=torch.float64).expand(rows, columns)


@pytest.mark.parametrize("inner", [0, 1, 3])
@pytest.mark.parametrize("right", range(4))
@pytest.mark.parametrize("left", range(4))
def test_products_of_repeated_rows_and_columns_are_those_of_the_whole_matrices(left, right, inner):
    a, b, bias = repeated(4, inner, left), repeated(inner, 5, right), torch.ones(5, dtype=torch.float64)

    def products():
        batch_a, batch_b = a.expand(2, *a.shape), b.expand(2, *b.shape)
        yield torch.mm(a, b)
        yield torch.addmm(bias, a, b, beta=2, alpha=3)
        yield torch.bmm(batch_a, batch_b)
        yield torch.baddbmm(bias, batch_a, batch_b, beta=0.5)
        yield nn.functional.linear(a, b.mT, bias)
        yield torch.einsum("ij,jk->ki", a, b)

    expected = list(products())
    with SlimProducts():
        found = list(products())
    torch.testing.assert_close(found, expected)
    assert [each.stride() for each in found[:4]] == [each.contiguous().stride() for each in expected[:4]]


def test_a_sum_past_the_largest_half_is_no_matter_where_it_meets_zeros():
    states, zeros = torch.full((1, 8), 6e4, dtype=torch.float16), torch.zeros((), dtype=torch.float16)
    with SlimProducts():
        assert torch.equal(states @ zeros.expand(8, 2), zeros.expand(1, 2))


def test_a_product_that_is_written_somewhere_or_added_to_nothing_is_the_same():
    a, b, nowhere = torch.ones(2, 3), torch.ones(()).expand(3, 2), torch.full((2, 2), float("nan"))
    with SlimProducts():
        assert torch.equal(torch.addmm(nowhere, a, b, beta=0), torch.full((2, 2), 3.0))
        torch.mm(a, b, out=nowhere)
    assert torch.equal(nowhere, torch.full((2, 2), 3.0))


@pytest.mark.skipif(
    not hasattr(torch.ops.aten, "_grouped_mm"), reason="this release of torch has no such product"
)
@pytest.mark.parametrize("expanded", [True, False])
def test_groups_of_rows_meet_their_own_matrices(expanded):
    rows, offsets = torch.randn(8, 16), torch.tensor([2, 8], dtype=torch.int32)
    matrices = torch.randn(16).expand(2, 16, 16) if expanded else torch.randn(2, 16, 16)
    expected = torch.cat([rows[:2] @ matrices[0], rows[2:] @ matrices[1]])
    with SlimProducts():
        torch.testing.assert_close(torch._grouped_mm(rows, matrices, offsets), expected, rtol=1e-2, atol=1e-2)


def test_multiply_accumulates_are_those_of_the_whole_matrices():
    transformers = pytest.importorskip("transformers")
    model, example = llama()
    built = on_meta(transformers.LlamaForCausalLM, model.config)
    with lent_weights(built):
        assert count_macs(built, example) == count_macs(model, example)
