import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shoal.errors import DataError
from shoal.measurement import IGNORED
from shoal.training.distillation import feature_gap, hidden_states, output_gap


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(1, 3), (4, 3), (2, 5, 7)])
def test_outputs_that_agree_have_no_gap(shape):
    outputs = torch.randn(shape)
    assert output_gap(outputs, outputs.clone(), torch.zeros(shape[0], 1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gap_of_classes_is_the_tempered_divergence(temperature):
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    expected = temperature**2 * (p * (p / q).log()).sum(1).mean()
    gap = output_gap(student, (teacher,), torch.zeros(4), temperature=temperature)
    torch.testing.assert_close(gap, expected)


def test_padding_does_not_count():
    student, teacher, ids = torch.randn(2, 6, 5), torch.randn(2, 6, 5), torch.randint(5, (2, 6))
    mask = torch.ones(2, 6).long()
    mask[:, 4:] = 0
    gap = output_gap(student, teacher, {"input_ids": ids, "attention_mask": mask}, causal=True)
    short = output_gap(student[:, :4], teacher[:, :4], {"input_ids": ids[:, :4]}, causal=True)
    torch.testing.assert_close(gap, short)


def test_ignored_positions_of_dense_labels_do_not_count():
    student, labels = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4).long()
    labels[0] = IGNORED
    teacher = student.clone()
    teacher[0] += torch.randn(3, 4, 4)
    assert output_gap(student, teacher, student, labels).item() == pytest.approx(0, abs=1e-6)
    assert output_gap(student, teacher, student, labels.clamp(min=0)) > 0.01


@pytest.mark.parametrize("labels", [None, torch.zeros(2, 3, 4, 4)])
def test_other_outputs_are_compared_by_their_squared_difference(labels):
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(output_gap(student, teacher, student, labels), F.mse_loss(student, teacher))


@pytest.mark.parametrize("teacher", [torch.zeros(2, 4), None])
def test_outputs_of_other_shapes_are_refused(teacher):
    with pytest.raises(DataError, match=r"the student returned \(2, 3\) and the teacher"):
        output_gap(torch.zeros(2, 3), teacher, torch.zeros(2))


def test_the_gap_of_features_is_relative_to_the_teachers_size():
    teacher = {"a": torch.randn(4, 8), "b": 100 * torch.randn(4, 8)}
    student = {"a": 1.1 * teacher["a"], "c": 1.1 * teacher["b"]}
    names = {"a": "a", "b": "c", "never called": "x"}
    torch.testing.assert_close(feature_gap(student, teacher, names), torch.tensor(0.01), rtol=1e-4, atol=0)


def test_features_of_other_shapes_are_refused():
    with pytest.raises(
        DataError, match=r"match 'b' with the teacher's 'a': the shapes are \(2,\) and \(3,\)"
    ):
        feature_gap({"b": torch.ones(2)}, {"a": torch.ones(3)}, {"a": "b"})


@pytest.mark.parametrize("names", [{}, {"a": "b"}])
def test_no_features_are_refused(names):
    with pytest.raises(DataError, match="no kept unit returned a hidden state"):
        feature_gap({}, {}, names)


def test_hidden_states_are_collected_inside_the_with_only():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with hidden_states(net, ["0"]) as states:
        net(torch.ones(1, 2))
    torch.testing.assert_close(states["0"], net[0](torch.ones(1, 2)))
    assert not net[0]._forward_hooks
