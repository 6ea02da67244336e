"""Imports go training -> handlers <- serving and never in a circle; an archive's modules need little."""

import ast
import graphlib
import sys
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"handlers", "training", "serving", "monitoring", "pipeline", "benchmarks", "synthetic"}
IN_AN_ARCHIVE = {"handlers", "torch", "kornia", "simplejpeg", "PIL", "numpy", *sys.stdlib_module_names}
ALLOWED = {
    "handlers": {"handlers"},
    "training": {"training", "handlers"},
    "serving": {"serving", "handlers"},
    "monitoring": {"monitoring", "serving", "handlers"},
}


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


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module in functions too, without those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield statement
                yield from running(statement)
            continue
        yield child
        yield from running(child)


def imports_of(source: str, modules: Container[str]) -> set[str]:
    """Return those of `modules` that a source imports; `from package import module` is an import of the module."""
    imports = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            imports |= {member if member in modules else str(node.module) for member in members}
    return {name for name in imports if name in modules}


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of one circle of imports, each imported by the one before it; empty without a circle."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_no_module_imports_itself_through_others() -> None:
    files = {path.relative_to(ROOT) for package in OURS for path in (ROOT / package).rglob("*.py")}
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    imports = {name: imports_of((ROOT / path).read_text(), modules) for name, path in modules.items()}
    assert sum(map(len, imports.values())) > len(modules)  # the names of modules are resolved
    assert not circle(imports), "imports go in a circle: " + " -> ".join(circle(imports))


def test_a_circle_through_a_function_is_recognized() -> None:
    sources = {
        "serving.first": "from serving import second",
        "serving.second": "def run():\n    from serving.third import name",
        "serving.third": "import serving.first",
    }
    assert set(circle({name: imports_of(source, sources) for name, source in sources.items()})) == set(sources)
    sources["serving.third"] = "if TYPE_CHECKING:\n    import serving.first"
    assert not circle({name: imports_of(source, sources) for name, source in sources.items()})
