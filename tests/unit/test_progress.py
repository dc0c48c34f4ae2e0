from contextlib import contextmanager

import pytest

from shoal.progress import reporting, task, track


class Recorder:
    """Notes what it is told."""

    def __init__(self):
        self.seen = []

    @contextmanager
    def task(self, title, total):
        self.seen.append((title, total))
        yield lambda steps: self.seen.append(steps)
        self.seen.append("end")


@pytest.mark.parametrize("items", [[], [3], [3, 1, 2]])
def test_all_items_come_through_with_and_without_a_reporter(items):
    assert list(track(items, "counting")) == items
    recorder = Recorder()
    with reporting(recorder):
        assert list(track(items, "counting")) == items
    assert recorder.seen == [("counting", len(items)), *[1] * len(items), "end"]


def test_the_length_of_a_generator_is_unknown_unless_it_is_told():
    recorder = Recorder()
    with reporting(recorder):
        list(track(iter([1]), "unknown"))
        list(track(iter([1]), "told", total=1))
    assert [entry for entry in recorder.seen if isinstance(entry, tuple)] == [("unknown", None), ("told", 1)]


def test_steps_can_be_reported_by_hand():
    recorder = Recorder()
    with reporting(recorder), task("scoring", total=5) as advance:
        advance(2)
        advance(3)
    assert recorder.seen == [("scoring", 5), 2, 3, "end"]


def test_nothing_is_reported_outside_the_context_even_after_an_error():
    recorder = Recorder()
    with pytest.raises(KeyError), reporting(recorder):
        raise KeyError
    list(track([1], "silent"))
    assert recorder.seen == []


def test_the_inner_reporter_counts_and_none_silences():
    outer, inner = Recorder(), Recorder()
    with reporting(outer):
        with reporting(inner):
            list(track([], "inner"))
        with reporting(None):
            list(track([], "silent"))
        list(track([], "outer"))
    assert (inner.seen[0], outer.seen[0], len(outer.seen)) == (("inner", 0), ("outer", 0), 2)


def test_a_task_ends_when_its_loop_is_left_early():
    recorder = Recorder()
    with reporting(recorder):
        steps = track(range(3), "cut short")
        next(steps)
        next(steps)
        steps.close()
    assert recorder.seen[:2] == [("cut short", 3), 1]
