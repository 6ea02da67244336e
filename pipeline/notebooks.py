"""Execute the notebooks of docs/ on drawn images: `make notebooks`.

python -m pipeline.notebooks [NAME ...] [--output docs/notebooks]

A notebook is a Python file in docs/notebooks/, in the percent format of jupytext. It is executed in an empty folder,
with a TorchServe on free ports, and becomes NAME.ipynb and, for the site, NAME.md with its pictures in NAME_files/.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jinja2 import DictLoader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import MarkdownExporter
from traitlets.config import Config

from serving import server
from serving.host.ports import OFFSET_VARIABLE, Ports, free_offset
from serving.lifecycle.launch import CONFIG

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "docs" / "notebooks"
FIRST_OFFSET = 41_000
TIMEOUT = 1200  # seconds of one cell
# Output in fences: Sphinx would read indented text as Python.
TEMPLATE = """
{%- extends 'markdown/index.md.j2' -%}
{% block stream %}
```text
{{ output.text | trim }}
```
{% endblock %}
{% block data_text scoped %}
```text
{{ output.data['text/plain'] | trim }}
```
{% endblock %}
{% block data_png %}
![picture of the cell above]({{ output.metadata.filenames['image/png'] | path2url }})
{% endblock %}
"""


class NotebookError(Exception):
    """A notebook is unknown or fails; the message says which, and how."""


def names() -> list[str]:
    """Return the notebooks that exist, in order."""
    return sorted(path.stem for path in SOURCES.glob("*.py"))


def execute(name: str, folder: Path) -> Any:
    """Execute a notebook in `folder`, and return it with its outputs; its server is stopped in any case.

    Raises:
        NotebookError: there is no such notebook, or a cell raises.
    """
    if name not in names():
        raise NotebookError(f"no notebook {name!r}: choose from {', '.join(names())}")
    shutil.copy(ROOT / CONFIG, folder)
    notebook = jupytext.read(SOURCES / f"{name}.py")
    offset = free_offset(Ports.of_config((ROOT / CONFIG).read_text()), FIRST_OFFSET)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), OFFSET_VARIABLE: str(offset)}
    sockets = Config(AsyncKernelManager={"transport": "ipc", "ip": str(folder / "kernel")})
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=TIMEOUT, resources=resources, coalesce_streams=True, config=sockets)
    try:
        client.execute(env=environment)
    except CellExecutionError as error:
        raise NotebookError(
            f"{name}.py, code cell {client.code_cells_executed}: {error.ename}: {error.evalue}"
        ) from error
    finally:
        server.stop(root=folder)
    return notebook


def write(notebook: Any, name: str, output: Path) -> None:
    """Write an executed notebook as .ipynb, and as Markdown with its pictures beside it."""
    output.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, output / f"{name}.ipynb")
    files = f"{name}_files"
    exporter = MarkdownExporter(extra_loaders=[DictLoader({"page.md.j2": TEMPLATE})], template_file="page.md.j2")
    text, resources = exporter.from_notebook_node(notebook, {"output_files_dir": files, "unique_key": name})
    shutil.rmtree(output / files, ignore_errors=True)
    (output / files).mkdir()
    for path, content in resources["outputs"].items():
        (output / path).write_bytes(content)
    (output / f"{name}.md").write_text(text, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the notebooks that the command line names, or all of them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="notebook of docs/notebooks (default: all)")
    parser.add_argument("--output", type=Path, default=SOURCES, help="folder for the executed notebooks")
    options = parser.parse_args(arguments)
    try:
        for name in options.names or names():
            with tempfile.TemporaryDirectory(prefix="sightline-notebook-") as folder:
                write(execute(name, Path(folder)), name, options.output)
            print(options.output / f"{name}.md", flush=True)
    except NotebookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
