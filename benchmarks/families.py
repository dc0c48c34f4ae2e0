"""Which families of the installed transformers can be cut: tiny random networks of all, three cuts each.

    python benchmarks/families.py            try them all, a few minutes; writes results/families-5.23.json
    python benchmarks/families.py llama t5   try some, and print what became of each cut
    python benchmarks/families.py --page     print the tables of docs/families.md from the results

A cut is made, saved and loaded again by the stock class, and its outputs are compared with those of the
original with the layers bypassed, bit by bit; or it is refused, and the nearest cut that the refusal
names is made and compared instead. The tests do the same (`tests/families`).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reporting import RESULTS, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ["HF_HUB_OFFLINE"] = "1"

Rows = Mapping[str, Mapping[str, Any]]
WORDS = {
    "exact": "cut in all three ways",
    "limits": "cut; some cuts refused, and another one named that works",
    "never": "not cut",
    "absent": "not run, or without layers of their own",
}
TITLES = {
    "limits": "Cut with limits",
    "never": "Not cut",
    "absent": "Not run, or without layers of their own",
}


def tried(name: str) -> dict[str, Any]:
    """Return what became of the cuts of a network."""
    from families.cutting import cuts_of, outcome
    from families.special import row_of
    from families.tiny import made, prompt_of
    from shoal.architectures import find_units

    if row := row_of(name, "running"):
        return {"kind": "absent", "why": row.why, "cuts": []}
    model, example = made(name)
    chain, cached = find_units(model, example), row_of(name, "cache")
    with tempfile.TemporaryDirectory() as folder:
        found = [
            outcome(
                model, example, chain, cut, Path(folder, str(i)), prompt=None if cached else prompt_of(name)
            )
            for i, cut in enumerate(cuts_of(chain))
        ]
    never, refused = row_of(name, "cutting"), [each.refused for each in found if each.refused]
    return {
        "kind": "never" if never else "limits" if refused else "exact",
        "why": never.why if never else reason(refused[0]) if refused else "",
        "cached": cached.why if cached else "",
        "cuts": [described(each) for each in found],
    }


def described(found: Any) -> str:
    """Return what became of a cut, in words."""
    asked = f"units {[*found.removed]}: "
    if not found.refused:
        return f"{asked}exact"
    return f"{asked}{found.refused}" + (f" Units {[*found.nearest]}: exact" if found.nearest else "")


def reason(refusal: str) -> str:
    """Return why a cut was refused, without what was asked and what would work."""
    inner = re.sub(r"^asked to [^:]*: (it cannot be removed: )?", "", refusal)
    return re.split(r"\. (?:The nearest|No cut|None of)", inner)[0]


def page(results: Mapping[str, Rows]) -> str:
    """Return the tables, a column for each version of transformers."""
    versions = list(results)
    lines = [
        "| of the networks tried | " + " | ".join(versions) + " |",
        "| --- |" + " --- |" * len(versions),
    ]
    for kind, words in WORDS.items():
        counts = [sum(row["kind"] == kind for row in rows.values()) for rows in results.values()]
        lines.append(f"| {words} | " + " | ".join(map(str, counts)) + " |")
    for kind, title in TITLES.items():
        lines += ["", f"## {title}", "", "| network | transformers | why |", "| --- | --- | --- |"]
        lines += [f"| {' | '.join(cells)} |" for cells in told(results, kind)]
    lines += ["", "## Cut in any of the three ways", ""]
    exact = {name for rows in results.values() for name, row in rows.items() if row["kind"] == "exact"}
    return "\n".join([*lines, ", ".join(sorted(exact, key=str.lower)) + "."])


def told(results: Mapping[str, Rows], kind: str) -> list[Sequence[str]]:
    """Return name, versions and reason of every network of a kind."""
    found: dict[tuple[str, str], list[str]] = {}
    for version, rows in results.items():
        for name, row in rows.items():
            if row["kind"] == kind:
                found.setdefault((name, row["why"]), []).append(version)
    rows = [(f"`{name}`", ", ".join(versions), why) for (name, why), versions in found.items()]
    return sorted(rows, key=lambda row: row[0].lower())


def main() -> None:
    """Try all networks, or those named, and write what became of them; or print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="families or classes; all where none is named")
    parser.add_argument("--page", action="store_true", help="print the tables from the results")
    options = parser.parse_args()
    if options.page:
        files = sorted(RESULTS.glob("families-*.json"), reverse=True)
        read = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        print(page({each["transformers"]: each["networks"] for each in read}))
        return
    warnings.filterwarnings("ignore")
    import transformers

    from families.tiny import networks

    logging.disable(logging.WARNING)
    rows = {name: tried(name) for name in options.names or networks()}
    if options.names:
        print(json.dumps(rows, indent=2))
        return
    version = ".".join(transformers.__version__.split(".")[:2])
    report(f"families-{version}", {"transformers": transformers.__version__, "networks": rows})


if __name__ == "__main__":
    main()
