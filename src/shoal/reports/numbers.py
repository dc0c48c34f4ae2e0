"""Numbers as people read them: counts, seconds, bytes, ratios."""

from __future__ import annotations

import math

__all__ = ["bytes_text", "count_text", "number_text", "ratio_text", "seconds_text"]


def count_text(count: float) -> str:
    """Return a count with four digits and a suffix.

    Example:
        >>> count_text(371_600), count_text(59_430_000), count_text(20), count_text(134_515_008)
        ('371.6 k', '59.43 M', '20', '134.5 M')
    """
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.4g} {suffix}"
    return f"{count:.0f}"


def seconds_text(seconds: float | None) -> str:
    """Return a time with three digits and its unit.

    Example:
        >>> seconds_text(0.01234), seconds_text(2.0), seconds_text(None)
        ('12.3 ms', '2 s', '-')
    """
    if seconds is None:
        return "-"
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def bytes_text(count: int | None) -> str:
    """Return a size in binary units.

    Example:
        >>> bytes_text(1536), bytes_text(None), bytes_text(12)
        ('1.5 KiB', '-', '12 B')
    """
    if count is None:
        return "-"
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.4g} {units[0]}"


def number_text(value: float | None) -> str:
    """Return a score with four digits; what is missing or no number is a dash.

    Example:
        >>> number_text(0.123456), number_text(float("nan")), number_text(1e-9)
        ('0.1235', '-', '1e-09')
    """
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}"


def ratio_text(before: float | None, after: float | None) -> str:
    """Return how much of the first the second is.

    Example:
        >>> ratio_text(2, 1), ratio_text(0, 1), ratio_text(None, 1)
        ('0.500', '-', '-')
    """
    if not before or after is None:
        return "-"
    return f"{after / before:.3f}"
