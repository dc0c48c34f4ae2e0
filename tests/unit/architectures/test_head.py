"""Where the final representation of a network is found."""

import pytest
import torch
from torch import nn

from networks import NETWORKS, PreActivation, gpt2, llama
from shoal.architectures import Head, bypassed, find_head, find_units
from shoal.calling import call
from shoal.errors import DataError

# The layer that takes the final representation; None where it is what the network returns.
HEADS = {
    "residual": "linear",
    "short_stages": "linear",
    "bottleneck": "head.2",
    "attributes": "head",
    "inverted": "head.2",
    "gated": "head.2",
    "convnext": "head",
    "vit": "head",
    "vgg": "classifier.5",
    "mlp": "10",
    "listed": "head",
    "between": "head",
    "numbered": "head",
    "side_by_side": "head",
    "tapped": "head",
    "branches": "head",
    "shared": None,
    "tuples": "head",
    "overwriting": "head",
    "eager": "2.2",
    "post_norm": None,
    "weight_normed": None,
    "pairs": "4",
}


def head_of(model, example, **settings):
    return find_head(model, find_units(model, example), example, **settings)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_is_the_layer_that_takes_the_final_representation(name):
    assert head_of(*NETWORKS[name]()).module == HEADS[name]


@pytest.mark.parametrize("name", [name for name, head in HEADS.items() if head is not None])
def test_what_reaches_the_head_depends_on_every_unit_and_not_on_the_head(name):
    model, example = NETWORKS[name]()
    chain, found = find_units(model, example), []
    layer = model.get_submodule(HEADS[name])
    layer.register_forward_pre_hook(lambda module, args: found.append(args[0].clone()))
    with torch.no_grad():
        for removed in ([], *([index] for index in chain.removable)):
            with bypassed(model, chain, removed):
                call(model, example)
        layer.weight.zero_()
        call(model, example)
    whole, *without, beheaded = found
    assert not any(torch.equal(whole, each) for each in without)
    assert torch.equal(whole, beheaded)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_of_text_it_is_the_first_layer_that_takes_every_token(make):
    pytest.importorskip("transformers")
    model, example = make()
    tokens = tuple(example["input_ids"].shape)
    assert head_of(model, example, tokens=tokens) == Head(module="lm_head", channels_first=False)


@pytest.mark.parametrize(
    ("name", "tokens", "expected"),
    [
        ("BertModel", True, None),
        ("BertModel", False, "pooler.dense"),
        ("BertForSequenceClassification", True, "bert.pooler.dense"),
        ("BertForMaskedLM", True, "cls.predictions.transform.dense"),
    ],
)
def test_an_encoder_s_pooler_is_its_head_only_where_no_state_of_all_tokens_comes_out(name, tokens, expected):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=32
    )
    ids = torch.arange(12).reshape(2, 6)
    model = getattr(transformers, name)(config).eval()
    assert head_of(model, {"input_ids": ids}, tokens=ids.shape if tokens else ()).module == expected


class Mapped(nn.Module):
    """Residual blocks on feature maps, and whatever follows."""

    def __init__(self, *following):
        super().__init__()
        self.blocks = nn.Sequential(*(PreActivation(8) for _ in range(3)))
        self.following = nn.Sequential(*following)

    def forward(self, x):
        return self.following(self.blocks(x))


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.movedim(1, -1)


@pytest.mark.parametrize(
    ("following", "expected"),
    [
        ([], Head(module=None, channels_first=True)),
        ([nn.ReLU()], Head(module=None, channels_first=True)),
        ([nn.Conv2d(8, 3, 1)], Head(module="following.0", channels_first=True)),
        (
            [nn.Conv2d(8, 12, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3)],
            Head(module="following.3", channels_first=False),
        ),
        ([nn.Flatten(2), nn.Conv1d(8, 3, 1)], Head(module="following.1", channels_first=True)),
        ([ChannelsLast(), nn.Linear(8, 3)], Head(module="following.1", channels_first=False)),
    ],
)
def test_features_are_where_the_head_takes_them(following, expected):
    assert head_of(Mapped(*following), torch.randn(2, 8, 4, 4)) == expected


def test_a_layer_called_before_the_last_unit_too_counts_from_its_last_call():
    model, x = NETWORKS["listed"]()
    chain = find_units(model, x)

    def also_early(module, args, output):
        model.head(output)

    model.layers[1].register_forward_hook(also_early)
    assert find_head(model, chain, x).module == "head"


def test_the_network_is_left_as_it_was_found():
    model, x = NETWORKS["residual"]()
    chain = find_units(model, x)
    find_head(model.train(), chain, x)
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_network_that_returns_nothing_and_has_no_head_is_refused():
    class Silent(Mapped):
        def forward(self, x):
            super().forward(x)

    x = torch.randn(2, 8, 4, 4)
    chain = find_units(Mapped(), x)
    with pytest.raises(DataError, match="final representation of Mapped: no layer runs after its units"):
        find_head(Silent(), chain, x)
