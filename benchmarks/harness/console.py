"""The command line of a benchmark: its parser, the table that it prints, and the console of its progress."""

import argparse
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def parser(benchmark: str, doc: str | None, package: str = "benchmarks") -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of the benchmark's module."""
    return argparse.ArgumentParser(
        prog=f"python -m {package}.{benchmark}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def progress() -> Console:
    """Return a console on standard error: standard output is for the table and the result."""
    return Console(stderr=True, markup=False, emoji=False)


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> None:
    """Print a table; its first column holds names, the others figures."""
    table = Table(title=title, caption=caption or None)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False).print(table)
