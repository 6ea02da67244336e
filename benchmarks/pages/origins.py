"""The table at the end of a page: when, on what machine and with which packages its results were measured."""

import string
from collections.abc import Iterable
from pathlib import Path

from benchmarks import result
from benchmarks.pages import gateway_tables, operations_tables, training_tables
from benchmarks.pages.markdown import NOT_MEASURED, load, machine, table


def files(name: str, results: Path) -> list[Path]:
    """Return the results that a table is made of."""
    runs = {"real": tuple(training_tables.TITLES), "accuracy": training_tables.IN_SHORT}
    if name in runs:
        return [results / "real" / f"{run}.json" for run in runs[name]]
    several = {
        "operations": list(operations_tables.SECTIONS),
        "gateway": [f"gateway_{benchmark}" for benchmark in gateway_tables.BENCHMARKS],
        "rates": ["serving"],
    }
    return [results / f"{stem}.json" for stem in several.get(name, [name])]


def origins(names: Iterable[str], results: Path) -> str:
    """Make the table of origins for the tables `names`; each machine with its packages is written once, below it."""
    paths = dict.fromkeys(path for name in names for path in files(name, results))
    documents = {path: document for path in paths if (document := load(path)) is not None}
    if not documents:
        return NOT_MEASURED
    machines = list(dict.fromkeys(machine(document) for document in documents.values()))
    letters = dict(zip(machines, string.ascii_lowercase, strict=False))
    rows = [
        [
            str(path.relative_to(results).with_suffix("")),
            f"({letters[machine(document)]})",
            result.sentences([document]) or "Not recorded.",
        ]
        for path, document in documents.items()
    ]
    notes = [f"({letter}) {text}." for text, letter in letters.items()]
    return "\n\n".join([table(["result", "machine", "measured"], rows), *notes])
