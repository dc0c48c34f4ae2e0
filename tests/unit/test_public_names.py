import importlib
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import shoal

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "find_units", "analyze", "make_plan", "compress", "compare", "apply", "measure", "heal",
    "HealSettings", "train", "ConcurrentPruner", "ConcurrentSettings", "FitSettings",
    "save", "load", "verify", "methods", "expand", "merge_layers", "export_onnx",
    "Budget", "Chain", "Comparison", "CompressionResult", "Evidence", "ImportanceTable", "LatencyTable",
    "Measurement", "Plan", "Segment", "Segmentation", "Unit",
    "BudgetError", "ConfigError", "DataError", "MissingExtraError", "PlanError", "ShoalError",
    "ShoalWarning", "SurgeryError", "UnitError", "UnknownArchitectureError", "VerificationError",
}  # fmt: skip


def test_the_public_names_are_these_and_no_others():
    assert set(shoal.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_can_be_used(name):
    assert getattr(shoal, name) is not None


@pytest.mark.parametrize("name", sorted(PUBLIC - {"methods"}))
def test_every_public_name_is_public_in_its_module(name):
    home = importlib.import_module(shoal._HOMES[name])
    assert name in home.__all__


@pytest.mark.parametrize("name", sorted(PUBLIC - {"methods"}))
def test_no_public_name_is_also_a_module(name):
    assert find_spec(f"shoal.{name}") is None
    home = importlib.import_module(shoal._HOMES[name])
    assert not hasattr(home, "__path__") or find_spec(f"{home.__name__}.{name}") is None


def test_what_the_documentation_writes_out_is_there_after_import_shoal():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    names = {name for text in texts for name in re.findall(r"\bshoal\.([a-z]+\.\w+)\b(?!\.\w)", text)}
    # Modules are imported by their names.
    names = {name for name in names if find_spec(f"shoal.{name}") is None}
    assert {"training.pruning_callback", "reports.gates_figure", "surgery.check_equal"} <= names
    asked = f"import operator, shoal; operator.attrgetter(*{sorted(names)!r})(shoal)"
    found = subprocess.run([sys.executable, "-c", asked], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        shoal.prune  # noqa: B018


def test_public_names_are_listed():
    assert set(dir(shoal)) >= PUBLIC


def test_the_version_is_that_of_the_package():
    assert shoal.__version__ == version("shoal")


def test_importing_shoal_and_planning_does_not_import_torch():
    code = (
        "import sys, shoal; shoal.Plan, shoal.Budget, shoal.Chain, shoal.Evidence; "
        "import shoal.segmentation, shoal.planners; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
