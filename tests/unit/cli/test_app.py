import subprocess
import sys
import time

import pytest

from shoal import __version__

VERBS = (
    "units",
    "analyze",
    "plan",
    "apply",
    "verify",
    "heal",
    "evaluate",
    "bench",
    "compress",
    "doctor",
    "demo",
)


def test_the_version_is_said(shoal):
    outcome = shoal("--version")
    assert (outcome.code, outcome.out) == (0, f"shoal {__version__}\n")


def test_without_a_verb_the_help_lists_all_verbs(shoal):
    outcome = shoal("")
    assert outcome.code == 0
    assert all(verb in outcome.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_every_flag(shoal, verb):
    outcome = shoal(f"{verb} --help")
    assert outcome.code == 0
    assert "--json" in outcome.out
    assert "--config" in outcome.out


def test_help_does_not_import_torch_and_is_quick():
    code = (
        "import sys\nfrom shoal.cli import run\n"
        "run(['--help']), run(['compress', '--help']), run(['no-such-verb'])\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    begun = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    # A bound with room: it takes about 0.4 seconds on a machine that does nothing else.
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [("unit net.py:make", "units"), ("units --dta x", "--data"), ("compres m", "compress")],
)
def test_an_unknown_verb_or_flag_names_the_nearest(shoal, typed, nearest):
    outcome = shoal(typed)
    assert outcome.code == 2
    assert outcome.out == ""
    assert nearest in outcome.err
    assert outcome.err.startswith("error: ")


def test_a_flag_that_a_verb_does_not_use_is_refused(shoal):
    outcome = shoal("verify small --budget macs=0.5")
    assert outcome.code == 2
    assert "--budget" in outcome.err


def test_a_value_of_the_wrong_kind_is_refused(shoal):
    outcome = shoal("evaluate net.py:make --data digits --batch-size many")
    assert outcome.code == 2
    assert "--batch-size" in outcome.err


@pytest.mark.parametrize("module", ["shoal.__main__", "shoal.cli"])
def test_the_module_leaves_with_the_exit_code(module):
    code = f"import sys; sys.argv = ['shoal', 'nothing']; from {module} import main; main()"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 2
