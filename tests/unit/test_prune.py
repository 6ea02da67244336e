"""Which archives are removed, which never are, and what is left of a removal that is cut short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.host.lock import Held, deploying
from serving.store import model_store, prune
from serving.store.live import FILE, Live, LiveModel
from serving.store.model_store import ArchiveError
from tests.unit.archived_run import write_servable

ROOT = Path(__file__).parents[2]
VERSIONS = ("1.0", "2.0", "9.0", "10.0", "11.0")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a directory whose store has archives of three names (empty files: only their names are read)."""
    store = tmp_path / model_store.FOLDER
    store.mkdir()
    for name in ("a", "a-b", "b"):
        for version in VERSIONS:
            (store / f"{name}-{version}.mar").touch()
            (store / f"{name}-{version}.json").touch()
            (store / f"{name}-{version}.sig").touch()
    return tmp_path


def kept(root: Path, name: str = "a") -> list[str]:
    """Return the versions that are left, each with its sidecar, and see that other names have theirs."""
    found: dict[str, list[str]] = {}
    for archive in model_store.archives(root / model_store.FOLDER):
        assert archive.sidecar.is_file()
        found.setdefault(archive.name, []).append(archive.version)
    assert all(versions == list(VERSIONS) for other, versions in found.items() if other != name)
    assert {"a", "a-b", "b"} == set(found)
    return found[name]


def test_the_newest_are_kept(root: Path) -> None:
    removed = prune.prune("a", 2, root=root)
    assert [archive.version for archive in removed] == ["1.0", "2.0", "9.0"]
    assert kept(root) == ["10.0", "11.0"]
    for suffix in (".json", ".sig"):
        left = {path.name for path in (root / model_store.FOLDER).glob(f"a-[0-9]*{suffix}")}
        assert left == {f"a-10.0{suffix}", f"a-11.0{suffix}"}
    assert prune.prune("a", 2, root=root) == [] and kept(root) == ["10.0", "11.0"]


@pytest.mark.parametrize(
    ("live", "left"),
    [
        (LiveModel("2.0", "1.0"), ["1.0", "2.0", "11.0"]),
        (LiveModel("9.0", "10.0"), ["9.0", "10.0", "11.0"]),  # rolled back
        (LiveModel("9.0"), ["2.0", "9.0", "11.0"]),  # nothing kept for a rollback: the next older
        (LiveModel("1.0"), ["1.0", "11.0"]),
        (LiveModel("11.0", "10.0"), ["10.0", "11.0"]),
    ],
)
def test_what_is_live_and_the_one_before_it_stay(root: Path, live: LiveModel, left: list[str]) -> None:
    Live({"a": live, "b": LiveModel("2.0")}).write(root)
    prune.prune("a", 1, root=root)
    assert kept(root) == left
    assert Live.read(root).models["a"] == live


def test_where_nobody_knows_what_is_live_nothing_is_removed(root: Path) -> None:
    (root / model_store.FOLDER / FILE).write_text("{")
    with pytest.raises(ArchiveError, match=r"live\.json is damaged"):
        prune.prune("a", 1, root=root)
    assert kept(root) == list(VERSIONS)


def test_while_a_deployment_runs_nothing_is_removed(root: Path) -> None:
    with deploying(root), pytest.raises(Held, match="another deployment runs here"):
        prune.prune("a", 1, root=root)
    assert kept(root) == list(VERSIONS)


@pytest.mark.parametrize("keep", [0, -1])
def test_one_is_kept_at_least(root: Path, keep: int) -> None:
    with pytest.raises(ValueError, match="keep 1 or more"):
        prune.prune("a", keep, root=root)
    assert kept(root) == list(VERSIONS)


@pytest.mark.parametrize("files", range(8))
def test_a_removal_that_is_cut_short_leaves_whole_archives_and_is_finished_by_the_next(
    root: Path, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    gone: list[Path] = []

    def killed(path: Path, missing_ok: bool = False) -> None:
        if len(gone) == files:
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)
        gone.append(path)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        prune.prune("a", 1, root=root)
    monkeypatch.undo()
    assert kept(root)[-1] == "11.0"
    prune.prune("a", 1, root=root)
    assert kept(root) == ["11.0"]
    assert [path.name for path in (root / model_store.FOLDER).glob("a-[0-9]*.json")] == ["a-11.0.json"]


def test_the_command_prunes_what_it_has_built_for(tmp_path: Path) -> None:
    def archive(version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving.archive", "small", version, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    write_servable(tmp_path / "runs" / "small")
    store = tmp_path / model_store.FOLDER
    store.mkdir()
    for version in ("0.1", "0.2", "0.3"):
        (store / f"small-{version}.mar").touch()
        (store / f"small-{version}.json").touch()
    Live({"small": LiveModel("0.1")}).write(tmp_path)
    done = archive("1.0", "--prune", "2")
    assert done.returncode == 0, done.stderr
    assert "removed small-0.2.mar" in done.stdout
    assert [each.version for each in model_store.archives(store)] == ["0.1", "0.3", "1.0"]
    assert archive("1.1", "--prune", "0").returncode == 2
    assert not (store / "small-1.1.mar").exists()
