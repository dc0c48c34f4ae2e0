import pytest
import torch
from torch import nn

from networks import NETWORKS, gpt2, llama
from shoal.architectures.initialisation import randomise_, seeded


def plain():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def randomised(model, seed=3):
    with seeded(model, seed):
        return randomise_(model)


def test_weights_are_those_of_a_network_made_anew_from_that_seed():
    torch.manual_seed(3)
    new = plain()
    torch.manual_seed(4)
    model = plain()
    assert randomised(model) == []
    assert all(map(torch.equal, model.parameters(), new.parameters()))


def test_the_attention_of_torch_follows_its_rule():
    attention = nn.MultiheadAttention(8, 2)
    nn.init.ones_(attention.in_proj_bias)
    assert randomised(attention) == []
    assert attention.in_proj_weight.abs().max() <= (6 / 32) ** 0.5
    assert attention.in_proj_bias.tolist() == [0] * 24


def test_statistics_of_batch_norms_begin_anew_and_other_buffers_stay():
    model = plain()
    model.register_buffer("table", torch.arange(3.0))
    model(torch.randn(16, 3))
    assert randomised(model) == []
    assert model[1].running_mean.tolist() == [0] * 4
    assert model[1].running_var.tolist() == [1] * 4
    assert model[1].num_batches_tracked == 0
    assert model.table.tolist() == [0, 1, 2]
    assert model.training


@pytest.mark.parametrize(("make", "std"), [(llama, 0.05), (gpt2, 0.02)])
def test_models_of_hugging_face_follow_their_own_rule(make, std):
    pytest.importorskip("transformers")
    model, example = make() if make is gpt2 else make(initializer_range=std, tie_word_embeddings=True)
    holder = nn.ModuleDict({"language": model, "head": nn.Linear(64, 64)})
    assert randomised(holder) == []
    embedding = model.get_input_embeddings().weight
    assert embedding is model.lm_head.weight
    assert embedding.std().item() == pytest.approx(std, rel=0.1)
    # torch's own rule, as the head is outside of the model.
    assert holder["head"].weight.abs().max() <= 1 / 8
    norms = [p for name, p in model.named_parameters() if "norm" in name or "ln_" in name]
    assert all(set(p.tolist()) in ({0.0}, {1.0}) for p in norms)
    assert torch.isfinite(model(**example).logits).all()


def test_a_module_s_own_rule_comes_after_those_of_the_modules_in_it():
    class Small(nn.Sequential):
        def reset_parameters(self):
            nn.init.constant_(self[0].weight, 0.25)

    model = Small(nn.Linear(2, 2))
    assert randomised(model) == []
    assert model[0].weight.unique().tolist() == [0.25]


@pytest.mark.parametrize(("name", "missed"), [("vit", {"positions"}), ("residual", set())])
def test_what_has_no_rule_is_named_and_drawn_as_widely_as_it_was(name, missed):
    model, _ = NETWORKS[name]()
    before = {each: parameter.detach().clone() for each, parameter in model.named_parameters()}
    assert set(randomised(model)) == missed
    for each in missed:
        found = model.get_parameter(each)
        assert not torch.equal(found, before[each])
        assert found.std().item() == pytest.approx(before[each].std().item(), rel=0.5)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_a_rule_that_reaches_nothing_is_found_out():
    model, _ = NETWORKS["weight_normed"]()
    missed = randomised(model)
    assert missed
    assert all(".parametrizations." in name or name.endswith("bias") for name in missed)


def test_integers_are_left_and_named():
    model = nn.ParameterList([nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False)])
    assert randomised(model) == ["0"]
    assert model[0].tolist() == [1, 1]


def test_the_random_state_outside_stays_and_the_seed_decides():
    model, other = plain(), plain()
    state = torch.get_rng_state()
    randomised(model)
    assert torch.equal(torch.get_rng_state(), state)
    randomised(other)
    assert torch.equal(model[0].weight, other[0].weight)
    randomised(other, seed=4)
    assert not torch.equal(model[0].weight, other[0].weight)
