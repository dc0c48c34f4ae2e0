import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

from shoal.architectures import find_units
from shoal.errors import ConfigError, DataError
from shoal.plan import Plan
from shoal.surgery import apply
from shoal.training.healing import HealSettings, heal


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(self.norm(x))))


@pytest.fixture
def teacher():
    net = nn.Sequential(nn.Linear(4, 6), *[Residual() for _ in range(4)], nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)
    return net


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    x = [torch.randn(16, 4, generator=generator) for _ in range(4)]
    return [(part, part[:, :3].argmax(dim=1)) for part in x]


@pytest.fixture
def plan(teacher):
    return Plan.removing(find_units(teacher, torch.zeros(2, 4)), ["1", "3"])


@pytest.fixture
def small(teacher, plan):
    return apply(teacher, plan)


def divergence(student: nn.Module, teacher: nn.Module, batches) -> float:
    x = torch.cat([x for x, _ in batches])
    with torch.no_grad():
        p, q = teacher.eval()(x).log_softmax(1), student.eval()(x).log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def loss_of(model: nn.Module, batches) -> float:
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(x), y))


def test_healing_lowers_the_loss(small, batches):
    healed = heal(small, batches, settings=HealSettings(epochs=10, lr=0.02))
    assert loss_of(healed, batches) < 0.8 * loss_of(small, batches)


@pytest.mark.parametrize("features", [0.0, 0.5])
def test_a_teacher_alone_brings_the_outputs_nearer_to_its_own(small, teacher, plan, batches, features):
    settings = HealSettings(epochs=10, lr=0.01, distil=1.0, features=features)
    healed = heal(small, [x for x, _ in batches], teacher=teacher, plan=plan, settings=settings)
    assert divergence(healed, teacher, batches) < 0.5 * divergence(small, teacher, batches)


def test_matching_features_brings_kept_units_nearer_to_the_teachers(small, teacher, plan, batches):
    assert plan.surviving_names == {"2": "1", "4": "2"}

    def gap(student: nn.Module) -> float:
        x = batches[0][0]
        with torch.no_grad():
            mine, theirs = student.eval()[:2](x), teacher.eval()[:3](x)
        return float((mine - theirs).square().mean())

    plain = heal(small, batches, teacher=teacher, settings=HealSettings(epochs=5, lr=0.01))
    matched = heal(
        small, batches, teacher=teacher, plan=plan, settings=HealSettings(epochs=5, lr=0.01, features=10.0)
    )
    assert gap(matched) < gap(plain)


@pytest.mark.parametrize("training", [True, False])
def test_what_is_passed_in_stays_as_it_was(small, teacher, plan, batches, training):
    for net in (small, teacher):
        net.train(training)
    before = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in (small, teacher)]
    state = torch.get_rng_state()
    healed = heal(small, batches, teacher=teacher, plan=plan, settings=HealSettings(epochs=1, features=1.0))
    for net, weights in zip((small, teacher), before, strict=True):
        assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())
        assert all(module.training == training for module in net.modules())
        assert all(parameter.grad is None for parameter in net.parameters())
        assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert healed.training == training
    assert type(healed) is type(small)
    assert not any(module._forward_hooks for module in healed.modules())
    assert all(parameter.grad is None for parameter in healed.parameters())


def test_no_epochs_recalibrate_only(small, batches):
    x = torch.cat([x for x, _ in batches])
    healed = heal(small, [x], settings=HealSettings(epochs=0))
    torch.testing.assert_close(healed[1].norm.running_mean, small[0](x).mean(dim=0).detach())
    assert all(torch.equal(a, b) for a, b in zip(healed.parameters(), small.parameters(), strict=True))


def test_nothing_to_do_gives_an_equal_copy(small, batches):
    healed = heal(small, batches, settings=HealSettings(epochs=0, recalibrate_batches=0))
    assert healed is not small
    pairs = zip(healed.state_dict().values(), small.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_resumed_healing_equals_an_unbroken_one(small, teacher, batches, tmp_path):
    settings = HealSettings(epochs=3, checkpoint_every=2)
    whole = heal(small, batches, teacher=teacher, settings=settings)
    path, broken = tmp_path / "heal.safetensors", _Broken(batches, passes=3)
    with pytest.raises(InterruptedError):
        heal(small, broken, teacher=teacher, settings=settings, checkpoint=path)
    assert path.exists()
    resumed = heal(small, batches, teacher=teacher, settings=settings, checkpoint=path, resume=True)
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_resuming_with_another_weight_of_the_teacher_is_refused(small, teacher, batches, tmp_path):
    path = tmp_path / "heal.safetensors"
    heal(small, batches, teacher=teacher, settings=HealSettings(epochs=1), checkpoint=path)
    with pytest.raises(ConfigError, match="other settings: distil 0.5 -> 0.1"):
        heal(small, batches, teacher=teacher, settings=HealSettings(epochs=1, distil=0.1), checkpoint=path,
             resume=True)  # fmt: skip


class _Broken:
    """Batches of which the last breaks off on some pass over them."""

    def __init__(self, batches, *, passes: int) -> None:
        self.batches, self.left = batches, passes

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        yield from self.batches[:-1]
        self.left -= 1
        if self.left == 0:
            raise InterruptedError
        yield self.batches[-1]


def llama(layers: int = 3) -> LlamaForCausalLM:
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=11,
        max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_a_language_model_is_healed_on_text_and_teacher():
    teacher = llama()
    ids = torch.arange(44).reshape(4, 11) % 11
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    batches = [{"input_ids": ids, "attention_mask": mask}]
    example = {"input_ids": ids}
    plan = Plan.removing(find_units(teacher, example), [1])
    small = apply(teacher, plan)
    settings = HealSettings(epochs=15, lr=0.01, features=0.1)
    healed = heal(small, batches, teacher=teacher, plan=plan, settings=settings)
    with torch.no_grad():
        before, after = (model(**example, labels=ids).loss for model in (small, healed))
    assert after < 0.9 * before
    assert healed.config.use_cache is True
    assert healed.generate(ids[:1, :2], min_new_tokens=2, max_new_tokens=2, do_sample=False).shape == (1, 4)


@pytest.mark.parametrize(
    ("language", "optimizer", "lr"), [(True, "adamw", 1e-4), (False, "adamw", 1e-3), (True, "sgd", 1e-2)]
)
def test_the_usual_learning_rate_follows_network_and_optimizer(language, optimizer, lr):
    assert HealSettings(optimizer=optimizer).fit_settings(language=language).lr == lr
    assert HealSettings(optimizer=optimizer, lr=0.3).fit_settings(language=language).lr == 0.3


def test_a_loss_of_the_users_is_used(small, batches):
    calls = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return F.cross_entropy(outputs, labels)

    heal(small, batches, settings=HealSettings(epochs=1), loss=loss)
    assert len(calls) == 4


def test_regression_is_distilled_by_squared_difference(small, teacher, batches):
    targets = [(x, torch.zeros(16, 3)) for x, _ in batches]
    healed = heal(small, targets, teacher=teacher, settings=HealSettings(epochs=5, lr=0.01))
    assert math.isfinite(loss_of(healed, batches))


@pytest.mark.parametrize(
    ("name", "value"),
    [("distil", 1.5), ("temperature", 0.0), ("features", -1.0), ("recalibrate_batches", -1), ("epochs", -2)],
)
def test_impossible_settings_are_refused_by_name_and_value(name, value):
    with pytest.raises(ConfigError, match=f"{name}={value}: "):
        HealSettings(**{name: value})


def test_features_without_a_teacher_or_a_plan_are_refused(small, teacher, plan, batches):
    settings = HealSettings(features=1.0)
    with pytest.raises(ConfigError, match="without a teacher"):
        heal(small, batches, plan=plan, settings=settings)
    with pytest.raises(ConfigError, match="without a plan"):
        heal(small, batches, teacher=teacher, settings=settings)


def test_inputs_without_labels_or_teacher_are_refused(small, batches):
    with pytest.raises(DataError, match="Tensor without labels: there is nothing to compute a loss"):
        heal(small, [x for x, _ in batches])


def test_a_loader_that_shuffles_leaves_the_random_state_alone(small, teacher, batches):
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)
    state = torch.get_rng_state()
    for epochs in (0, 1):
        heal(small, loader, teacher=teacher, settings=HealSettings(epochs=epochs))
    assert torch.equal(torch.get_rng_state(), state)


def test_no_batches_are_refused(small):
    with pytest.raises(DataError, match="the data is empty"):
        heal(small, [])
