import torch
from torch import nn

from in_processes import in_processes
from shoal.training import FitSettings, train

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.relu(self.inner(x))


def trained(size, epochs=6):
    """Plan and weights of a network trained on batches of so many samples."""
    torch.manual_seed(0)
    net = nn.Sequential(*(Block() for _ in range(5)), nn.Linear(6, 3)).double()
    data = [(X[i : i + size].double(), Y[i : i + size]) for i in range(0, 64, size)]
    settings = FitSettings(epochs=epochs, lr=0.05, optimizer="sgd", warmup=0.0)
    found = train(net, data, example=data[0][0][:1], budget="units=3", fit_settings=settings)
    return list(found.plan.removed), [value.tolist() for value in found.model.state_dict().values()]


def share(number, size):
    return trained(size)


def too_few(number):
    return trained(64)


def test_processes_train_what_one_trains_on_batches_as_large_as_theirs_together():
    main, other = in_processes(share, 8)
    alone = trained(16)
    assert main[0] == other[0] == alone[0]
    for mine, theirs, whole in zip(main[1], other[1], alone[1], strict=True):
        assert mine == theirs
        assert torch.allclose(torch.tensor(mine), torch.tensor(whole), rtol=0, atol=1e-10)


def test_fewer_batches_than_processes_are_refused_in_all():
    for outcome in in_processes(too_few):
        assert "2 processes on 1 batches" in str(outcome)
