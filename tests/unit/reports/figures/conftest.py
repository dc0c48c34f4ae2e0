"""What figures are looked at with: where their words stand, and what lies on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest


@pytest.fixture
def overlaps() -> Callable[..., list[tuple[str, str]]]:
    """Return a function that names the tick labels, titles and legends that lie on each other."""

    def find(figure: Any) -> list[tuple[str, str]]:
        figure.draw_without_rendering()
        boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
        boxes += [("legend", legend.get_window_extent()) for legend in figure.legends]
        boxes += [("axes", axes.get_window_extent()) for axes in figure.axes]
        return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if _cover(a, b)]

    return find


@pytest.fixture
def clipped() -> Callable[..., list[str]]:
    """Return a function that names the words that stick out of a figure."""

    def find(figure: Any) -> list[str]:
        figure.draw_without_rendering()
        whole = figure.bbox.padded(1)
        boxes = [(text.get_text(), text.get_window_extent()) for text in _texts(figure)]
        boxes += [("legend", legend.get_window_extent()) for legend in figure.legends]
        return [
            name
            for name, box in boxes
            if not (whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1)
        ]

    return find


def _texts(figure: Any) -> Sequence[Any]:
    texts = [figure._suptitle]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label2 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_visible() and text.get_text()]


def _cover(one: Any, other: Any) -> bool:
    # Boxes that only touch do not cover each other.
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return wide > 0.5 and high > 0.5
