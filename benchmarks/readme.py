"""Write the tables of README.md and docs/*.md from the results under benchmarks/results/: `make readme`.

    python -m benchmarks.readme           write
    python -m benchmarks.readme --check   exit with 1 where a page differs from the results

A table is between `<!-- table:NAME -->` and `<!-- /table:NAME -->`. Figures come from the results only: a table without
a result says "not measured". The table `origins` describes the results of all other tables of its page.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.pages.markdown import RESULTS
from benchmarks.pages.origins import origins
from benchmarks.pages.results import TABLES

ORIGINS = "origins"
BLOCK = re.compile(r"(<!-- table:(?P<name>[a-z0-9_]+) -->\n)(?P<body>.*?)(<!-- /table:(?P=name) -->)", re.DOTALL)


class ReadmeError(Exception):
    """A result or a place for it is missing or broken."""


def pages(root: Path) -> list[Path]:
    """Return the pages of the documentation, README.md first."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def render(text: str, results: Path = RESULTS, page: str = "README.md") -> str:
    """Return the text of a page with every table made again from `results`.

    Raises:
        ReadmeError: the page names an unknown table, or a result is broken.
    """
    names = [match["name"] for match in BLOCK.finditer(text) if match["name"] != ORIGINS]

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name != ORIGINS and name not in TABLES:
            raise ReadmeError(f"{page} asks for a table {name!r}: known are {', '.join([*TABLES, ORIGINS])}")
        try:
            body = origins(names, results) if name == ORIGINS else TABLES[name](results)
        except (KeyError, TypeError, ValueError) as error:
            raise ReadmeError(f"the results of table {name!r} are broken ({error!r}): measure again") from error
        return "\n".join([match[1].rstrip("\n"), "", body, "", match[4]])

    return BLOCK.sub(replace, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check every page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page would change")
    options = parser.parse_args(arguments)
    outdated = []
    try:
        for page in pages(Path()):
            before = page.read_text()
            after = render(before, page=str(page))
            if after != before:
                outdated.append(str(page))
                if not options.check:
                    page.write_text(after)
    except (OSError, ReadmeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.check and outdated:
        print(f"error: {', '.join(outdated)} differ from benchmarks/results: make readme", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
