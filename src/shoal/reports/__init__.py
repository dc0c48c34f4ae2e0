"""What people read: tables of units, evidence, plans and measurements."""

from shoal.reports.tables import (
    Table,
    checks_table,
    comparison_table,
    data_line,
    evidence_table,
    measurements_table,
    plan_table,
    quality_table,
    segments_table,
    units_table,
)

__all__ = [
    "Table",
    "checks_table",
    "comparison_table",
    "data_line",
    "evidence_table",
    "measurements_table",
    "plan_table",
    "quality_table",
    "segments_table",
    "units_table",
]
