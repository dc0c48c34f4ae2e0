import doctest
import importlib
import pkgutil

import pytest

import shoal

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(shoal.__path__, "shoal.")
    if not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_hold(name):
    failures = []
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        runner.run(test, out=failures.append)
    assert not failures, "".join(failures)


def test_every_module_says_what_is_in_it():
    silent = [name for name in MODULES if not importlib.import_module(name).__doc__]
    assert silent == []


def test_every_module_names_what_is_public():
    without = [name for name in MODULES if not hasattr(importlib.import_module(name), "__all__")]
    assert without == []
