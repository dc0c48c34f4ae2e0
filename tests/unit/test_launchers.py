"""What launchers say of a process, by the variables that they set."""

import os
import subprocess
import sys

import pytest

from shoal.launchers import is_main, said_count, started, started_here

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "ACCELERATE_USE_CPU")


@pytest.fixture(autouse=True)
def launch(monkeypatch):
    """`launch(RANK=1)` sets what a launcher would; nothing is set before."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    return lambda **said: [monkeypatch.setenv(name, str(value)) for name, value in said.items()]


def test_a_process_alone_is_the_main_one():
    assert (started(), started_here(), is_main(), said_count()) == (1, 1, True, None)


@pytest.mark.parametrize(
    ("count", "number"), [("WORLD_SIZE", "RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")]
)
def test_launchers_say_how_many_there_are_and_which_this_is(launch, count, number):
    launch(**{count: 3, number: 0})
    assert (started(), is_main()) == (3, True)
    launch(**{number: 2})
    assert (started(), started_here(), is_main()) == (3, 3, False)
    launch(LOCAL_WORLD_SIZE=2)
    assert (started(), started_here()) == (3, 2)


def test_a_number_without_a_count_says_nothing(launch):
    launch(RANK=1, WORLD_SIZE="")
    assert (started(), is_main()) == (1, True)


def test_what_launchers_say_is_known_without_torch():
    code = (
        "import sys\nfrom shoal.launchers import is_main, started\nfrom shoal.progress import track\n"
        "list(track([1], 'x'))\nsys.exit(10 * started() + is_main() + 100 * ('torch' in sys.modules))"
    )
    said = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
    assert subprocess.run([sys.executable, "-c", code], env=said, check=False).returncode == 20
