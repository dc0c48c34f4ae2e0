"""Settings of generation go with the layers that they name."""

import pytest

from shoal.errors import UnitError
from shoal.surgery.generation import RULES, repair_generation_, repaired_generation

transformers = pytest.importorskip("transformers")
HEADS = [[0, 5], [1, 0], [1, 3], [3, 2]]


@pytest.fixture(scope="module")
def whisper():
    config = transformers.WhisperConfig(
        vocab_size=64, d_model=16, encoder_layers=4, decoder_layers=4, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        max_source_positions=8, max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperForConditionalGeneration(config)


TABLE = [
    ("alignment_heads", HEADS, (0, 1, 2, 3), HEADS),
    ("alignment_heads", HEADS, (1, 3), [[0, 0], [0, 3], [1, 2]]),
    ("alignment_heads", HEADS, (2,), None),
    ("alignment_heads", [], (2,), None),
    ("dola_layers", [0, 2, 3], (0, 1, 2, 3), [0, 2, 3]),
    ("dola_layers", [0, 2, 3], (0, 1, 3), [0, 2]),
    ("dola_layers", [2, 3], (0,), None),
    ("dola_layers", "low", (0,), "low"),
    ("assistant_early_exit", 3, (0, 1, 2, 3), 3),
    ("assistant_early_exit", 3, (0, 2, 3), 2),
    ("assistant_early_exit", 3, (0, 2), None),
    ("assistant_early_exit", 2, (2, 3), None),
]


@pytest.mark.parametrize(("name", "value", "kept", "after"), TABLE)
def test_a_setting_names_the_layers_that_stay(whisper, name, value, kept, after):
    fields = {name: value, "top_k": 4}
    found = repaired_generation(fields, whisper, {"model.decoder.layers": kept})
    assert found == ({"top_k": 4} if after is None else {name: after, "top_k": 4})
    assert fields == {name: value, "top_k": 4}


@pytest.mark.parametrize(("name", "value", "kept", "after"), TABLE)
def test_the_config_of_a_model_is_repaired_in_place(whisper, name, value, kept, after):
    whisper.generation_config = transformers.GenerationConfig(**{name: value})
    repair_generation_(whisper, {"model.decoder.layers": kept})
    assert getattr(whisper.generation_config, name, None) == after
    if name == "alignment_heads":
        assert hasattr(whisper.generation_config, name) == (after is not None)


@pytest.mark.parametrize(
    "lists", [{}, {"model.encoder.layers": (0,)}, {"model.decoder.layers.0.experts": (0,)}]
)
def test_lists_elsewhere_change_nothing(whisper, lists):
    fields = {"alignment_heads": HEADS, "dola_layers": [1], "assistant_early_exit": 2}
    assert repaired_generation(fields, whisper, lists) == fields


def test_a_model_without_a_generation_config_stays():
    model = transformers.BertModel(transformers.BertConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    ))  # fmt: skip
    model.generation_config = None
    repair_generation_(model, {"encoder.layer": (0,)})
    assert model.generation_config is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alignment_heads", [[1, 2, 3]]), ("alignment_heads", [1]), ("alignment_heads", "all"),
        ("dola_layers", 3), ("dola_layers", [-2]), ("dola_layers", [True]),
        ("assistant_early_exit", "2"), ("assistant_early_exit", -1), ("assistant_early_exit", 1.5),
    ],
)  # fmt: skip
def test_a_setting_that_is_not_understood_is_refused(whisper, name, value):
    with pytest.raises(UnitError, match=f"generation config says {name} = "):
        repaired_generation({name: value}, whisper, {"model.decoder.layers": (0,)})


@pytest.mark.parametrize("name", RULES)
def test_two_lists_that_a_setting_may_mean_are_refused(whisper, name):
    lists = {"model.decoder.layers": (0,), "model.decoder.more": (0,)}
    with pytest.raises(UnitError, match=r"layers of model\.decoder\.layers, model\.decoder\.more"):
        repaired_generation({name: 1}, whisper, lists)
