import json
from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset

from shoal.calling import (
    call,
    check_batches,
    describe_inputs,
    device_of,
    evaluating,
    first_sample,
    inputs_like,
    join_batch,
    random_state,
    restore_random_state,
    sample_count,
    split_batch,
    to_device,
)
from shoal.errors import DataError

X, Y = torch.randn(4, 3), torch.arange(4)


class Keeps(nn.Module):
    def forward(self, *args, **kwargs):
        return args, kwargs


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (X, ((X,), {})),
        ((X, Y), ((X, Y), {})),
        ([X, Y], ((X, Y), {})),
        ({"x": X, "y": Y}, ((), {"x": X, "y": Y})),
        (UserDict(x=X), ((), {"x": X})),
        ((), ((), {})),
    ],
    ids=["tensor", "tuple", "list", "dict", "mapping", "nothing"],
)
def test_a_network_is_called_with_a_tensor_arguments_or_keywords(inputs, expected):
    assert call(Keeps(), inputs) == expected


@pytest.mark.parametrize(
    ("batch", "inputs", "labels"),
    [
        ((X, Y), X, Y),
        ([X, Y], X, Y),
        (X, X, None),
        ((X,), (X,), None),
        ((X, X, Y), (X, X, Y), None),
        (((X, X), Y), (X, X), Y),
        ({"input_ids": X, "labels": Y}, {"input_ids": X}, Y),
        ({"input_ids": X}, {"input_ids": X}, None),
    ],
)
def test_a_batch_is_inputs_and_labels(batch, inputs, labels):
    found = split_batch(batch)
    assert found[0] is inputs or found[0] == inputs
    assert found[1] is labels


@pytest.mark.parametrize("batch", [(X, Y), X, {"input_ids": X, "labels": Y}, {"input_ids": X}])
def test_what_was_split_is_joined_again(batch):
    joined = join_batch(*split_batch(batch))
    assert joined is batch or joined == batch


def test_every_tensor_of_a_structure_moves_and_the_rest_stays():
    moved = to_device({"x": (X, [Y]), "name": "text", "none": None}, torch.device("meta"))
    assert moved["x"][0].device.type == moved["x"][1][0].device.type == "meta"
    assert (moved["name"], moved["none"]) == ("text", None)


def test_a_mapping_becomes_a_dict():
    assert type(to_device(UserDict(x=X), torch.device("cpu"))) is dict


@pytest.mark.parametrize("inputs", [X, (X,), {"a": 3, "x": X}, (torch.tensor(1.0), X), UserDict(x=X)])
def test_samples_are_counted_on_the_first_tensor_with_an_axis(inputs):
    assert sample_count(inputs) == 4


@pytest.mark.parametrize("inputs", [(), {}, "text", torch.tensor(1.0), None])
def test_a_batch_without_tensors_is_refused(inputs):
    with pytest.raises(DataError, match="a batch without a tensor"):
        sample_count(inputs)


def test_the_first_sample_is_a_batch_of_one():
    found = first_sample({"x": X, "y": (Y, torch.ones(2, 2)), "flag": True})
    assert torch.equal(found["x"], X[:1])
    assert torch.equal(found["y"][0], Y[:1])
    # What is not of the batch's length is no samples.
    assert found["y"][1].shape == (2, 2)
    assert found["flag"] is True


def test_the_device_is_that_of_parameters_or_buffers_or_the_cpu():
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"


@pytest.mark.parametrize("batches", [[X], ((X, Y),), DataLoader(TensorDataset(X), batch_size=2)])
def test_batches_can_be_gone_through_again(batches):
    assert check_batches(batches) is batches


def test_looking_at_a_shuffled_loader_draws_no_random_number():
    loader = DataLoader(TensorDataset(X), batch_size=1, shuffle=True)
    before = torch.get_rng_state()
    check_batches(loader)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "found none: the data is empty"),
        (DataLoader(TensorDataset(X[:0])), "found none"),
        (iter([X]), "list_iterator as batches: it can be gone through only once"),
        ((x for x in [X]), "generator as batches"),
        (X, "asked to use Tensor as batches: pass a list"),
        ({"x": X}, "asked to use dict as batches"),
        ("text", "asked to use str as batches"),
        (3, "asked to use int as batches"),
        (None, "asked to use NoneType as batches"),
    ],
)
def test_what_are_no_batches_is_refused(batches, message):
    with pytest.raises(DataError, match=message):
        check_batches(batches)


@pytest.mark.parametrize("train", [False, True])
def test_modes_come_back_as_they_were(train):
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with evaluating(model, train=train) as same:
        assert same is model
        assert {module.training for module in model.modules()} == {train}
    assert [module.training for module in model.modules()] == before


def test_the_random_state_comes_back():
    before = torch.get_rng_state()
    with evaluating(nn.Dropout()):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cached", [True, False])
def test_caches_are_off_and_come_back(cached):
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(use_cache=cached)
    with evaluating(model):
        assert model.config.use_cache is False
    assert model.config.use_cache is cached


def test_caches_of_a_model_inside_the_network_are_off_too():
    inner = nn.Linear(1, 1)
    inner.config = SimpleNamespace(use_cache=True)
    with evaluating(nn.Sequential(inner, nn.ReLU())):
        assert inner.config.use_cache is False
    assert inner.config.use_cache is True


def test_a_config_without_a_cache_gets_none():
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace()
    with evaluating(model):
        assert not hasattr(model.config, "use_cache")


def test_all_comes_back_after_an_error_too():
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(use_cache=True)
    before = torch.get_rng_state()

    def draws_and_fails():
        with evaluating(model):
            torch.rand(3)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        draws_and_fails()
    assert model.training
    assert model.config.use_cache is True
    assert torch.equal(torch.get_rng_state(), before)


def test_inputs_go_to_the_device_on_which_offloaded_weights_are_used():
    accelerate = pytest.importorskip("accelerate")
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    accelerate.cpu_offload(net, execution_device=torch.device("cpu"))
    assert next(net.parameters()).is_meta
    assert device_of(net) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")


@pytest.mark.parametrize(
    "inputs",
    [
        torch.randn(2, 3),
        (torch.randn(2, 3), torch.arange(2)),
        {"x": torch.randn(1, 2).to(torch.bfloat16), "flag": True, "none": None, "text": "a"},
        (torch.zeros(0, 3), (torch.ones(1), 2.5)),
    ],
)
def test_described_inputs_are_made_again_with_their_shapes_and_dtypes(inputs):
    described = json.loads(json.dumps(describe_inputs(inputs)))
    made = inputs_like(described)
    assert describe_inputs(made) == described
    again = tree_leaves(inputs_like(described))
    assert all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(tree_leaves(made), again, strict=True)
    )


def test_what_json_does_not_say_is_refused():
    with pytest.raises(DataError, match="an input is a object"):
        describe_inputs((object(),))


def test_a_random_state_taken_up_again_draws_the_same_numbers():
    device = torch.device("cpu")
    state = random_state(device)
    first = torch.rand(5)
    torch.rand(3)
    for _ in range(2):
        restore_random_state(state, device)
        assert torch.equal(torch.rand(5), first)
    assert sorted(state) == ["cpu"]


def test_a_random_state_of_another_device_is_taken_up_as_far_as_it_goes():
    state = random_state(torch.device("cpu"))
    first = torch.rand(5)
    restore_random_state(state, torch.device("cuda"))
    assert torch.equal(torch.rand(5), first)
