"""Imports go training -> handlers <- serving, and what travels inside an archive needs little."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"handlers", "training", "serving", "pipeline", "benchmarks", "synthetic"}
IN_AN_ARCHIVE = {"handlers", "torch", "kornia", "simplejpeg", "PIL", "numpy", *sys.stdlib_module_names}
ALLOWED = {"handlers": {"handlers"}, "training": {"training", "handlers"}, "serving": {"serving", "handlers"}}


def imported(package: str) -> Iterator[tuple[Path, str]]:
    """Yield each file of a package with the first name of everything that it imports, inside functions too."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                yield path.relative_to(ROOT), name.partition(".")[0]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    found = list(imported(package))
    assert any(name == "handlers" for _, name in found)
    assert not [pair for pair in found if pair[1] in OURS - ALLOWED[package]]


def test_what_travels_in_an_archive_is_there_on_a_server() -> None:
    others = {(path.name, name) for path, name in imported("handlers") if name not in IN_AN_ARCHIVE}
    # A worker with a GPU alone waits for torchvision; TorchServe's own modules are where its worker is.
    assert others == {("nvjpeg.py", "torchvision"), ("torchserve_reader.py", "ts")}
