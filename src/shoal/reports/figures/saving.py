"""Figures as files, each of them whole or not there at all."""

from __future__ import annotations

import secrets
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.errors import ConfigError
from shoal.reports.figures.canvas import looking_alike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_paths", "save_figure"]

_ENDINGS = (".png", ".svg")
_DOTS_PER_INCH = 200


def figure_paths(path: str | Path) -> tuple[Path, ...]:
    """Return the files that a figure of this name is written to.

    Args:
        path: A name without an ending, for both kinds, or one that ends in .png or .svg.

    Raises:
        ConfigError: If it has another ending.

    Example:
        >>> [each.as_posix() for each in figure_paths("out/similarity")]
        ['out/similarity.png', 'out/similarity.svg']
    """
    path = Path(path)
    if not path.suffix:
        return tuple(path.with_name(path.name + ending) for ending in _ENDINGS)
    if path.suffix.lower() not in _ENDINGS:
        raise ConfigError(
            f"asked to write the figure {str(path)!r}: {' and '.join(_ENDINGS)} work, and a name without an "
            "ending for both."
        )
    return (path,)


def save_figure(figure: Figure, path: str | Path) -> tuple[Path, ...]:
    """Write a figure as PNG and SVG, and return the paths; existing files are replaced.

    The same figure becomes the same bytes. Nothing is written unless all of it can be drawn.

    Args:
        figure: What one of the functions here returned.
        path: A name without an ending, for both kinds, or one that ends in .png or .svg. Folders
            are made.

    Raises:
        ConfigError: If it has another ending.
        MissingExtraError: If matplotlib is not installed.
    """
    paths = figure_paths(path)
    drawn = {target: _drawn(figure, target.suffix[1:].lower()) for target in paths}
    for target, content in drawn.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
        try:
            partial.write_bytes(content)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return paths


def _drawn(figure: Figure, kind: str) -> bytes:
    buffer = BytesIO()
    # Without the date that SVG files carry otherwise.
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
    with looking_alike():
        figure.savefig(
            buffer, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata, bbox_inches="tight", pad_inches=0.08
        )
    return buffer.getvalue()
