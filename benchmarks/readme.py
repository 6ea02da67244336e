"""Write the tables of README.md from the results under benchmarks/results/: `make readme`.

    python -m benchmarks.readme           write
    python -m benchmarks.readme --check   exit with 1 where README.md does not say what the results say

A table is between `<!-- table:NAME -->` and `<!-- /table:NAME -->`. Figures come from the results alone: what has
no result there is "not measured".
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import operations_tables, result, training_tables
from benchmarks.markdown import RESULTS, load
from benchmarks.tables import TABLES

README = Path("README.md")
BLOCK = re.compile(r"(<!-- table:(?P<name>[a-z0-9]+) -->\n)(?P<body>.*?)(<!-- /table:(?P=name) -->)", re.DOTALL)


class ReadmeError(Exception):
    """A result or a place for it is missing or broken."""


def render(text: str, results: Path = RESULTS) -> str:
    """Return README text with every table made anew from `results`.

    Raises:
        ReadmeError: a table is asked for that nobody makes, or a result is broken.
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ReadmeError(f"README.md asks for a table {name!r}: known are {', '.join(TABLES)}")
        try:
            body = TABLES[name](results)
        except (KeyError, TypeError, ValueError) as error:
            raise ReadmeError(f"the results of table {name!r} are broken ({error!r}): measure again") from error
        origin = result.sentences([document for path in files(name, results) if (document := load(path))])
        return "\n".join([match[1].rstrip("\n"), "", body, *(["", origin] if origin else []), "", match[4]])

    return BLOCK.sub(replace, text)


def files(table: str, results: Path) -> list[Path]:
    """Return the results that a table is made of."""
    if table == "real":
        return [results / "real" / f"{name}.json" for name in training_tables.TITLES]
    names = operations_tables.SECTIONS if table == "operations" else [table]
    return [results / f"{name}.json" for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check README.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where it would")
    given = parser.parse_args(arguments)
    try:
        before = README.read_text()
        after = render(before)
    except (OSError, ReadmeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if given.check and after != before:
        print("error: README.md does not say what benchmarks/results says: make readme", file=sys.stderr)
        return 1
    if not given.check:
        README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
