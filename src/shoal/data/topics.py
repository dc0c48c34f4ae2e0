"""The text that every Python installation carries: the help topics of the standard library.

Topics quote each other, so a paragraph is kept where it is met first and nowhere else: the two
parts share no paragraph.
"""

from __future__ import annotations

import re
from pydoc_data.topics import topics
from typing import Literal

__all__ = ["PARTS", "Part", "read_topics"]

Part = Literal["calibration", "test"]
PARTS = ("calibration", "test")
_EVERY = 4


def read_topics(part: Part) -> str:
    """Return one part of Python's help topics as text, about 260,000 and 90,000 characters long.

    Every fourth topic in alphabetical order is for testing. The length depends on the version of
    Python.

    Args:
        part: `calibration` or `test`.

    Example:
        >>> len(read_topics("calibration")) > len(read_topics("test")) > 10_000
        True
    """
    seen: set[str] = set()
    texts: dict[str, list[str]] = {"calibration": [], "test": []}
    for position, name in enumerate(sorted(topics)):
        kept = []
        for paragraph in re.split(r"\n\s*\n", topics[name].strip()):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                kept.append(paragraph)
        if kept:
            texts["test" if position % _EVERY == _EVERY - 1 else "calibration"].append("\n\n".join(kept))
    return "\n\n\n".join(texts[part])
