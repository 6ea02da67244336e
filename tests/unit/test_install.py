"""`pip install .` and `pip install -e .`: packages import from any directory, and their data files come along."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted({path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"})
PROBE = """
import importlib, json, sys
from training.configuration import compose
paths = [importlib.import_module(name).__file__ for name in sys.argv[1:]]
print(json.dumps([paths, compose(["dataset=petals", "network=vit"]).dataset.name]))
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Copy what the build reads: it writes beside its source."""
    source = tmp_path / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("benchmarks", "tests"):
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    return source


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return the Python of a fresh environment that sees the packages installed here, so that nothing is downloaded."""
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    packages = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "python"


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout's own environment, and return its output."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    completed = subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True, timeout=120)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def install(python: Path, *arguments: str | Path) -> None:
    """Install from a folder without its dependencies; uv works in an environment that has no pip, too."""
    uv = Path(sys.prefix) / "bin" / "uv"
    offline = ("--no-deps", "--no-build-isolation", "--offline")
    run(uv, "pip", "install", "--python", python, *offline, *arguments, cwd=python.parent)


def test_an_editable_install_imports_from_any_directory(source: Path, python: Path, tmp_path: Path) -> None:
    install(python, "-e", source)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths, dataset = json.loads(run(python, "-c", PROBE, *PACKAGES, cwd=elsewhere))
    assert paths == [str(source / name / "__init__.py") for name in PACKAGES]
    assert dataset == "petals"


def test_an_installed_copy_has_every_file_of_the_packages_and_the_licence(
    source: Path, python: Path, tmp_path: Path
) -> None:
    expected = {path.relative_to(source) for name in PACKAGES for path in (source / name).rglob("*") if path.is_file()}
    target = tmp_path / "target"
    install(python, "--target", target, source)
    installed = {path.relative_to(target) for path in target.rglob("*") if path.is_file()}
    information = {path for path in installed if path.parts[0] in (".lock", "sightline-0.1.0.dist-info")}
    assert installed - information == expected
    metadata = (target / "sightline-0.1.0.dist-info" / "METADATA").read_text()
    assert "License-Expression: MIT\n" in metadata
    assert (target / "sightline-0.1.0.dist-info" / "licenses" / "LICENSE").is_file()
