"""What people read: tables of units, evidence, plans and measurements, and figures."""

from shoal.reports.comparison import (
    comparison_page,
    drawn_qualities,
    standings_figure,
    standings_points,
    standings_tables,
)
from shoal.reports.criteria import agreement_table, criteria_table, evidence_tables
from shoal.reports.figures import (
    ParetoPoint,
    gates_figure,
    importance_figure,
    pareto_figure,
    save_figure,
    similarity_figure,
)
from shoal.reports.footprints import footprint_table
from shoal.reports.markdown import markdown_table
from shoal.reports.plans import certificate_table, plan_table
from shoal.reports.tables import (
    Table,
    checks_table,
    comparison_table,
    data_line,
    evidence_table,
    measurements_table,
    quality_table,
    segments_table,
    units_table,
)

__all__ = [
    "ParetoPoint",
    "Table",
    "agreement_table",
    "certificate_table",
    "checks_table",
    "comparison_page",
    "comparison_table",
    "criteria_table",
    "data_line",
    "drawn_qualities",
    "evidence_table",
    "evidence_tables",
    "footprint_table",
    "gates_figure",
    "importance_figure",
    "markdown_table",
    "measurements_table",
    "pareto_figure",
    "plan_table",
    "quality_table",
    "save_figure",
    "segments_table",
    "similarity_figure",
    "standings_figure",
    "standings_points",
    "standings_tables",
    "units_table",
]
