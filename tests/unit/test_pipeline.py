"""The pipeline of dvc.yaml: from drawn images to an archive, only what a change needs, and pulled by hash."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.store import model_config, model_store
from tests.unit.test_imports import OURS, imported
from training.configuration import compose

ROOT = Path(__file__).parents[2]
INSTALL = "install it with .venv/bin/uv pip install --require-hashes -r requirements-dvc.txt"
DVC = shutil.which("dvc", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
with_dvc = pytest.mark.skipif(DVC is None, reason=f"dvc is missing: {INSTALL}")
FILES = ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore")
PACKAGES = ("handlers", "serving", "synthetic", "training")
IMAGES = 12  # of each of 12 classes, and a quarter more to test
PARAMETERS: dict[str, Any] = {
    "dataset": "fingers",
    "name": "hands",
    "raw": "data/raw/fingers",
    "prepare": "",
    "train": "network=small_cnn trainer.epochs=2 trainer.batch_size=16 split.validation=0.3 trainer.ema=0",
    "evaluate": "",
    "archive": {"version": "1.0", "settings": ""},
}


def test_the_parameters_are_settings_of_the_project() -> None:
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    compose([f"dataset={parameters['dataset']}", *parameters["prepare"].split(), *parameters["train"].split()])
    model_config.configure(parameters["archive"]["settings"].split())
    model_store.check_version(parameters["archive"]["version"])
    assert set(parameters) == set(PARAMETERS) and set(parameters["archive"]) == set(PARAMETERS["archive"])


def test_every_stage_names_what_the_project_has() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    commands = [
        line for stage in stages.values() for line in [stage["cmd"]] for line in ([line], line)[type(line) is list]
    ]
    modules = [re.fullmatch(r"\.venv/bin/python -m ([\w.]+) .*", command) for command in commands]
    assert all(module and (ROOT / module[1].replace(".", "/")).with_suffix(".py").is_file() for module in modules)
    followed = [pair for stage in stages.values() for entry in stage.get("params", ()) for pair in entry.items()]
    assert len(followed) == 5
    for name, keys in followed:
        for dataset in (ROOT / "training/configs/dataset").glob("*.yaml"):
            document = yaml.safe_load((ROOT / name.replace("${dataset}", dataset.stem)).read_text())
            assert set(keys or ()) <= set(document), f"{name}: DVC refuses a key that it lacks"


def test_nothing_imports_it() -> None:
    assert "dvc" not in {name for package in OURS for _, name in imported(package)}


def test_dvc_sends_nothing_and_knows_no_place_of_this_machine() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    assert (config["core"]["analytics"], config["core"]["check_update"]) == ("false", "false")
    assert config["'remote \"local\"'"]["url"] == "../data/remote", "below a folder that git ignores"


class Project:
    """A checkout with drawn images, and `parameters` that are written before each `dvc repro`."""

    def __init__(self, root: Path) -> None:
        self.root, self.parameters = root, json.loads(json.dumps(PARAMETERS))
        for name in FILES:
            (root / name).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        for name in PACKAGES:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        (root / ".venv").symlink_to(sys.prefix)
        self.run(sys.executable, "-m", "synthetic", "fingers", PARAMETERS["raw"], "--images-per-class", str(IMAGES))
        self.run("git", "init", "--quiet")
        self.commit()

    def run(self, *command: str) -> str:
        """Return the output of a command that succeeds."""
        places = dict.fromkeys(("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR"), str(self.root.with_name("dvc")))
        environment = {**os.environ, **places, "COLUMNS": "200"}
        completed = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=600)
        if completed.returncode:
            raise RuntimeError(completed.stdout + completed.stderr)
        return completed.stdout

    def dvc(self, *arguments: str) -> str:
        assert DVC is not None
        return self.run(DVC, *arguments)

    def repro(self, *arguments: str) -> list[str]:
        """Write the parameters, reproduce, and return the stages that ran."""
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.parameters, sort_keys=False))
        return re.findall(r"^Running stage '(\w+)'", self.dvc("repro", *arguments), re.MULTILINE)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "State")

    def contents(self) -> dict[str, bytes]:
        """Return the files of store, run and archives."""
        folders = ("data/processed", "runs", "model_store")
        paths = [path for folder in folders for path in (self.root / folder).rglob("*") if path.is_file()]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project after its first `dvc repro`."""
    project = Project(tmp_path_factory.mktemp("pipeline") / "project")
    assert project.repro() == ["prepare", "train", "archive"]
    project.commit()
    return project


@with_dvc
@pytest.mark.slow
def test_from_images_to_an_archive_and_nothing_the_second_time(project: Project) -> None:
    names = set(project.contents())
    assert {"data/processed/hands/dataset.json", "runs/hands/model.pt", "runs/hands/report.html"} <= names
    assert {"model_store/hands-1.0.mar", "model_store/hands-1.0.json"} <= names
    assert project.run("git", "ls-files", "data", "runs", "model_store") == "", "DVC has these, git has dvc.lock"
    lock = (project.root / "dvc.lock").read_text()
    assert "hands-1.0.mar" in lock and str(project.root) not in lock
    before = project.contents()
    assert project.repro() == [] and project.contents() == before
    cached = [path for path in (project.root / ".dvc/cache").rglob("*") if path.is_file()]
    assert len(cached) < IMAGES * 12, "not the raw images"


@with_dvc
@pytest.mark.slow
def test_metrics_and_plots_are_those_of_the_run(project: Project) -> None:
    scores = json.loads((project.root / "runs/hands/evaluation/scores.json").read_text())
    shown = json.loads(project.dvc("metrics", "show", "--json"))[""]["data"]
    assert shown == {"runs/hands/evaluation/scores.json": {"data": scores}}
    project.dvc("plots", "show", "--out", "../plots")
    page = (project.root.parent / "plots" / "index.html").read_text()
    assert "validation_loss" in page and "confusion.png" in page


@with_dvc
@pytest.mark.slow
def test_a_changed_parameter_runs_only_what_depends_on_it(project: Project) -> None:
    project.parameters["archive"] = {"version": "1.1", "settings": "handler.top_k=3"}
    assert project.repro() == ["archive"]
    project.parameters["train"] = project.parameters["train"].replace("epochs=2", "epochs=3")
    archives = {name: data for name, data in project.contents().items() if name.startswith("model_store/")}
    assert len(archives) == 4
    with pytest.raises(RuntimeError, match=r"hands-1\.1\.mar exists and is never overwritten: choose another VERSION"):
        project.repro()
    assert archives.items() <= project.contents().items(), "an archive that may be live stays"
    project.parameters["archive"]["version"] = "1.2"
    assert project.repro() == ["archive"] and project.repro() == []
    assert len((project.root / "runs/hands/metrics.csv").read_text().splitlines()) == 4
    project.commit()


@with_dvc
@pytest.mark.slow
def test_data_run_and_archive_come_back_by_hash_and_serve_without_the_images(project: Project) -> None:
    project.dvc("push")
    lock = yaml.safe_load((project.root / "dvc.lock").read_text())["stages"]
    tracked = tuple(output["path"] for stage in lock.values() for output in stage["outs"])
    before = {name: data for name, data in project.contents().items() if name.startswith(tracked)}
    for folder in (".dvc/cache", "data/processed", "data/raw", "runs", "model_store"):
        shutil.rmtree(project.root / folder)
    project.dvc("pull")
    assert project.contents() == before and {"runs/hands/model.pt", "model_store/hands-1.2.mar"} <= set(before)
    version = project.parameters["archive"]["version"] = "1.3"
    assert project.repro("--allow-missing") == ["archive"]
    assert (project.root / f"model_store/hands-{version}.mar").is_file()


@with_dvc
@pytest.mark.slow
def test_of_a_store_in_shards_the_shards_are_kept(project: Project) -> None:
    project.run(sys.executable, "-m", "synthetic", "fingers", PARAMETERS["raw"], "--images-per-class", str(IMAGES))
    project.parameters["prepare"] += " dataset.store=encoded"
    assert project.repro("prepare") == ["prepare"]
    listing = project.dvc("list", ".", "data/processed/hands/shards", "--dvc-only")
    assert {"train-000000.tar", "validation-000000.tar", "test-000000.tar"} <= set(listing.split())
