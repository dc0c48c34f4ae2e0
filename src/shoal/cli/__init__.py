"""The command line: one command `shoal`, a verb a file; tables to stdout, progress and logs to stderr."""

from shoal.cli.app import main, run

__all__ = ["main", "run"]
