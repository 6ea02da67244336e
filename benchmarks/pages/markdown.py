"""Parts of every table of the documentation: a result, rows of cells, and words for figures and machines."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
NOT_MEASURED = "*Not measured.*"


def load(path: Path) -> Any | None:
    """Return a result, or None without a file."""
    return json.loads(path.read_text()) if path.is_file() else None


def of_result(file: str) -> Callable[[Callable[[Any], str]], Callable[[Path], str]]:
    """Make a function of a result into one of the folder of results, which says if the result is missing."""

    def decorate(make: Callable[[Any], str]) -> Callable[[Path], str]:
        @functools.wraps(make)
        def make_from_folder(results: Path) -> str:
            document = load(results / file)
            return NOT_MEASURED if document is None else make(document)

        return make_from_folder

    return decorate


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; a row that ends early, as that of something missing does, is filled up."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join([*row, *[''] * (len(head) - len(row))])} |" for row in rows)])


def percent(score: dict[str, float]) -> str:
    """Return a share with its interval."""
    return f"**{100 * score['value']:.2f} %** ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def machine(document: Mapping[str, Any], *, packages: bool = True) -> str:
    """Return the machine of a result, and the packages that it was measured with."""
    about, versions = document["machine"], document["versions"]
    count = about["cores"]
    processor = about.get("processor") or about["cpu"]  # the name in older results
    on = f"{count} core{'s' if count > 1 else ''} of {processor}, {about.get('device', 'cpu')}"
    named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"{on}; {named}" if packages else on
