"""Figures: similarity, importances, quality against latency, gates in training; as PNG and SVG.

All are `matplotlib.figure.Figure`s in one look that does not depend on the user's settings and
leaves those as they are. matplotlib is imported when the first figure is drawn.
"""

from shoal.reports.figures.canvas import check_available
from shoal.reports.figures.front import ParetoPoint, pareto_front
from shoal.reports.figures.gates import gates_figure
from shoal.reports.figures.importance import importance_figure
from shoal.reports.figures.pareto import pareto_figure
from shoal.reports.figures.saving import figure_paths, save_figure
from shoal.reports.figures.similarity import similarity_figure

__all__ = [
    "ParetoPoint",
    "check_available",
    "figure_paths",
    "gates_figure",
    "importance_figure",
    "pareto_figure",
    "pareto_front",
    "save_figure",
    "similarity_figure",
]
