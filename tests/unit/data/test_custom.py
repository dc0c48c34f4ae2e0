import pytest
import torch
from torch.utils.data import DataLoader

from shoal.data.custom import data_from_function
from shoal.data.settings import DataSettings
from shoal.errors import ConfigError, DataError

SOURCE = """
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from neighbour import COUNT

pairs = lambda: [(torch.zeros(COUNT, 2), torch.zeros(COUNT)), (torch.ones(1, 2), torch.ones(1))]
named = lambda: [{"x": torch.arange(6).view(3, 2), "scale": torch.tensor(2.0), "labels": torch.zeros(3)}]
loader = lambda: DataLoader(TensorDataset(torch.zeros(5, 2), torch.zeros(5)), batch_size=2)
generator = lambda: (torch.zeros(1) for _ in range(3))
nothing = lambda: []
number = lambda: 3
hollow = lambda: [torch.zeros(3, 2), torch.zeros(0, 2)]
hollow_loader = lambda: DataLoader([torch.zeros(0, 2)], batch_size=None)
tensorless = lambda: [["a", "b", "c"]]
needy = lambda batch_size: []
constant = 3


class Endless:
    def __iter__(self):
        return iter([torch.zeros(2)])


endless = lambda: Endless()
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "neighbour.py").write_text("COUNT = 4\n")
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def load(path, function):
    return data_from_function(f"{path}:{function}", DataSettings())


def test_a_list_of_batches_is_used_as_it_is(path):
    data = load(path, "pairs")
    assert [len(labels) for _, labels in data.batches] == [4, 1]
    assert (data.kind, data.samples, data.labels) == ("custom", 5, True)
    assert torch.equal(data.example, torch.zeros(1, 2))


def test_a_loader_is_used_as_it_is(path):
    data = load(path, "loader")
    assert isinstance(data.batches, DataLoader)
    assert (len(data.batches), data.samples) == (3, None)


def test_the_example_of_named_inputs_is_their_first_sample(path):
    example = load(path, "named").example
    assert example["x"].tolist() == [[0, 1]]
    assert example["scale"] == 2
    assert "labels" not in example


def test_the_hash_follows_the_file_and_the_function(path):
    first = load(path, "pairs").sha256
    assert first != load(path, "named").sha256
    path.write_text(SOURCE + "\n")
    assert first != load(path, "pairs").sha256


def test_a_generator_is_refused(path):
    with pytest.raises(DataError, match="it can be gone through only once"):
        load(path, "generator")


def test_no_batches_are_refused(path):
    with pytest.raises(DataError, match="the data is empty"):
        load(path, "nothing")


@pytest.mark.parametrize("function", ["number", "tensorless"])
def test_what_holds_no_tensors_is_refused(path, function):
    with pytest.raises(DataError, match="as batches|without a tensor"):
        load(path, function)


def test_batches_without_a_length_are_refused(path):
    with pytest.raises(DataError, match="it returned Endless, which has no length"):
        load(path, "endless")


def test_a_missing_file_is_named(path):
    with pytest.raises(ConfigError, match=r"there is no file .*yours\.py"):
        load(path.with_name("yours.py"), "pairs")


@pytest.mark.parametrize("function", ["pears", "constant"])
def test_a_missing_function_is_named_with_those_there_are(path, function):
    with pytest.raises(ConfigError, match=f"no function '{function}'. It has .*pairs, named"):
        load(path, function)


def test_a_function_that_wants_arguments_is_refused(path):
    with pytest.raises(ConfigError, match="called without arguments, and wants some .*'batch_size'"):
        load(path, "needy")


def test_a_setting_is_refused(path):
    with pytest.raises(ConfigError, match="batch_size=3 with .*which makes its batches itself"):
        data_from_function(f"{path}:pairs", DataSettings(batch_size=3))


def test_the_search_path_stays_as_it_was(path):
    import sys

    before = list(sys.path)
    load(path, "pairs")
    assert sys.path == before


@pytest.mark.parametrize(("function", "number"), [("hollow", "1 of the 2"), ("hollow_loader", "0 of the 1")])
def test_a_batch_without_samples_is_named(path, function, number):
    with pytest.raises(DataError, match=f"mine.py:{function}: batch {number} .* holds no samples"):
        load(path, function)
