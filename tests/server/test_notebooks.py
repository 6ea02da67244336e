"""The notebooks of docs/: each is executed on drawn images, asks a real server, and becomes a page with pictures."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import nbformat
import pytest

from pipeline import notebooks
from synthetic.__main__ import DATASETS
from tests.server.conftest import ROOT

SAMPLE = ("fingers", "petals")  # a network from nothing and a pretrained one; `make notebooks` executes all
SECTIONS = ["Load", "Look at the data", "Train", "Evaluate", "Look at the mistakes", "Ask the server"]


def test_every_data_set_has_a_notebook() -> None:
    assert notebooks.names() == sorted(DATASETS)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a sample of the notebooks, executed by the command of `make notebooks`."""
    folder = tmp_path_factory.mktemp("executed")
    command = [sys.executable, "-m", "pipeline.notebooks", *SAMPLE, "--output", str(folder)]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_notebook_goes_from_images_to_answers(executed: Path, name: str) -> None:
    page = (executed / f"{name}.md").read_text()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    assert re.search(r"^\w+ 1\.0 is ready after \d+ s$", page, re.MULTILINE)
    linked = re.findall(r"!\[.*\]\((.*)\)", page)
    assert len(linked) >= 3 and all((executed / link).read_bytes().startswith(b"\x89PNG") for link in linked)
    assert not re.search(r"\x1b|Warning|/tmp/|/home/", page)
    cells = nbformat.read(executed / f"{name}.ipynb", as_version=4).cells
    assert max(len(cell.source.splitlines()) for cell in cells) <= 16, "cells are short"
    assert cells[-1].source.startswith("server.stop(") and cells[-1].outputs[0].data["text/plain"] == "True"


@pytest.mark.slow
def test_the_site_shows_the_pictures_of_each_notebook(executed: Path, tmp_path: Path) -> None:
    docs = tmp_path / "checkout" / "docs"
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("_build", "*_files"))
    for path in ROOT.iterdir():  # the pages link to files of the repository
        if path.name != "docs":
            (docs.parent / path.name).symlink_to(path)
    shutil.copytree(executed, docs / "notebooks", dirs_exist_ok=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(docs), str(tmp_path / "site")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    for name in SAMPLE:
        assert (tmp_path / "site" / "notebooks" / f"{name}.html").read_text().count("<img") >= 3


STARTS_AND_FAILS = """\
# %%
from pathlib import Path

from serving import archive, server
from serving.host import ports

archive.build("shapes", "1.0", runs=Path({runs!r}), rehearse=False)
started = server.start(["shapes"], root=Path.cwd(), offset=ports.offset_of_environment())
Path({address!r}).write_text(started.state.inference)

# %%
raise ValueError("no images")
"""


@pytest.mark.slow
def test_a_notebook_that_fails_is_one_line_and_its_server_is_stopped(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = tmp_path / "address"
    (tmp_path / "broken.py").write_text(STARTS_AND_FAILS.format(runs=str(root / "runs"), address=str(address)))
    monkeypatch.setattr(notebooks, "SOURCES", tmp_path)
    assert notebooks.main(["broken", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: broken.py, code cell 2: ValueError: no images\n"
    assert not (tmp_path / "broken.md").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(address.read_text(), trust_env=False)


SAYS_WHERE_IT_RUNS = """\
# %%
import os
from pathlib import Path

import serving

print(Path.cwd(), flush=True)
print(os.environ["SIGHTLINE_PORT_OFFSET"])
print(Path(serving.__file__).parents[1])
print(sorted(path.name.partition("-")[0] for path in Path.cwd().iterdir())[:2])
"""


def test_a_notebook_runs_in_its_folder_with_free_ports_and_no_port_of_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.py").write_text(SAYS_WHERE_IT_RUNS)
    monkeypatch.setattr(notebooks, "SOURCES", tmp_path)
    monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", "7")
    folder = tmp_path / "empty"
    folder.mkdir()
    outputs = notebooks.execute("small", folder).cells[0].outputs
    assert len(outputs) == 1, "lines of one stream are one output"
    where, offset, code, files = outputs[0].text.splitlines()
    assert (where, code, files) == (str(folder), str(ROOT), "['config.properties', 'kernel']")
    assert int(offset) >= notebooks.FIRST_OFFSET


def test_all_notebooks_are_executed_into_a_new_folder_and_again_over_their_old_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text("# %%\n'a page'\n")
    monkeypatch.setattr(notebooks, "SOURCES", tmp_path)
    pages = tmp_path / "new" / "pages"
    assert notebooks.main(["--output", str(pages)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(pages / "first.md"), str(pages / "second.md")]
    (pages / "first_files" / "old.png").touch()
    assert notebooks.main(["first", "--output", str(pages)]) == 0
    assert "```text\n'a page'\n```" in (pages / "first.md").read_text()
    assert list((pages / "first_files").iterdir()) == []


def test_an_unknown_notebook_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main(["flowers"]) == 1
    names = "asl_alphabet, fingers, moths, petals, places365"
    assert capsys.readouterr().err == f"error: no notebook 'flowers': choose from {names}\n"
