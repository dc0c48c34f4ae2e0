import pytest

from shoal.comparing.reordering import BUFFER, Reordered


class Loader:
    """Batches that cannot be indexed; knows how many it has handed out."""

    def __init__(self, batches):
        self.batches, self.handed = batches, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.handed += 1
            yield batch


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 50])
@pytest.mark.parametrize("kind", [list, tuple, Loader])
def test_another_order_is_of_the_same_batches_and_comes_again(kind, count):
    batches = kind(range(count))
    reordered = Reordered(batches, 3)
    once = list(reordered)
    assert sorted(once) == list(range(count))
    assert list(reordered) == once
    assert len(reordered) == count
    if count > 1:
        assert list(range(count)) != once != list(Reordered(batches, 4))


def test_a_loader_is_reordered_with_few_batches_in_memory():
    loader = Loader(list(range(100)))
    ahead = [loader.handed - out for out, _ in enumerate(Reordered(loader, 0))]
    assert max(ahead) <= BUFFER + 1


def test_a_sequence_is_indexed_and_not_held():
    class Rows:
        def __len__(self):
            return 40

        def __getitem__(self, place):
            return place

        def __iter__(self):
            raise AssertionError("gone through as a whole")

    assert sorted(Reordered(Rows(), 1)) == list(range(40))
