"""Building archives: what is inside, what is refused, and two builds at once."""

import dataclasses
import errno
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import yaml

from handlers import golden
from serving import archive
from serving.store import fine_tuning, model_config, model_store, package, provenance, prune, rehearsal
from serving.store.model_store import Archive, ArchiveError
from tests.unit.archived_run import write_run, write_servable

# What is built here has no weights: there is nothing to rehearse.
build = partial(archive.build, rehearse=False)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a runs/ folder with one run whose model.pt holds a spec and nothing else."""
    return write_run(tmp_path / "runs")


def test_an_archive_holds_the_package_the_weights_and_the_settings(runs: Path, tmp_path: Path) -> None:
    built = build("fingers", "1.0", runs=runs, store=tmp_path / "store")
    assert built == Archive("fingers", "1.0", tmp_path / "store" / "fingers-1.0.mar")
    built.check()
    with zipfile.ZipFile(built.path) as file:
        names = set(file.namelist())
        assert file.read("model.pt") == (runs / "fingers" / "model.pt").read_bytes()
        manifest = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
    code = {f"handlers/{path.relative_to(package.HANDLERS).as_posix()}" for path in package.HANDLERS.rglob("*.py")}
    assert code | {"sightline_handler.py", "model.pt", "model-config.yaml"} <= names
    assert not any("__pycache__" in name for name in names)
    assert manifest["handler"] == "sightline_handler.py" and manifest["configFile"] == "model-config.yaml"
    assert built.model_config() == {key: value for key, value in model_config.DEFAULTS.items() if value is not None}
    # Nothing is left of the building but the archive and its sidecar.
    assert {path.name for path in built.path.parent.iterdir()} == {"fingers-1.0.mar", "fingers-1.0.json"}


def test_golden_images_without_pixels_are_not_archived(tmp_path: Path) -> None:
    file = write_servable(tmp_path / "runs" / "old") / golden.FILE
    golden.write([dataclasses.replace(image, pixels=None) for image in golden.read(file)], file)
    with pytest.raises(
        ArchiveError, match=r"without pixels: export the run again \(python -m training\.export name=old"
    ):
        build("old", "1.0", runs=tmp_path / "runs", store=tmp_path / "store")


def test_the_sidecar_says_where_it_came_from(runs: Path, tmp_path: Path) -> None:
    built = build("fingers", "1.0", runs=runs, store=tmp_path / "store", overrides=["batchSize=3"])
    sidecar = json.loads(built.sidecar.read_text())
    assert sidecar["sha256"] == hashlib.sha256(built.path.read_bytes()).hexdigest()
    assert sidecar["file"] == "fingers-1.0.mar" and sidecar["bytes"] == built.path.stat().st_size
    assert sidecar["metrics"] == {"top1": 1.0}
    assert sidecar["dataset_fingerprint"] == "from-train"
    assert sidecar["config"] == {"name": "fingers", "seed": 0}
    assert sidecar["classes"] == ["0L", "0R"] and sidecar["network"] == "small_cnn"
    assert sidecar["versions"]["torchserve"] == "0.12.0" and set(sidecar["versions"]) >= {"python", "torch", "pillow"}
    assert sidecar["trained"] == {"commit": "abc", "versions": {"torch": "2.0"}}
    assert sidecar["overrides"] == ["batchSize=3"] and sidecar["model_config"]["batchSize"] == 3


def test_the_archive_holds_the_same_provenance_and_the_digest_of_each_file(runs: Path, tmp_path: Path) -> None:
    built = build("fingers", "1.0", runs=runs, store=tmp_path / "store")
    sidecar = json.loads(built.sidecar.read_text())
    with zipfile.ZipFile(built.path) as file:
        inside = json.loads(file.read(provenance.FILE))
        found = {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}
    del found[provenance.FILE]
    assert inside["members"] == found
    assert inside == {key: value for key, value in sidecar.items() if key in inside}
    assert set(sidecar) - set(inside) == {"name", "version", "file", "sha256", "bytes"}


def test_a_run_without_evaluation_can_be_archived(runs: Path, tmp_path: Path) -> None:
    for name in ("train.json", "config.yaml", "evaluation/metrics.json"):
        (runs / "fingers" / name).unlink()
    sidecar = json.loads(build("fingers", "1.0", runs=runs, store=tmp_path).sidecar.read_text())
    assert sidecar["metrics"] is None and sidecar["config"] is None
    assert sidecar["dataset_fingerprint"] == "from-spec"


def test_a_version_is_never_overwritten(runs: Path, tmp_path: Path) -> None:
    built = build("fingers", "1.0", runs=runs, store=tmp_path / "store")
    before = built.path.read_bytes(), built.sidecar.read_bytes()
    (runs / "fingers" / "train.json").write_text(json.dumps({"fingerprint": "another"}))
    with pytest.raises(ArchiveError, match=r"fingers-1.0.mar exists and is never overwritten"):
        build("fingers", "1.0", runs=runs, store=tmp_path / "store")
    assert (built.path.read_bytes(), built.sidecar.read_bytes()) == before


def test_nothing_is_built_that_another_version_has(runs: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    build("fingers", "1.0", runs=runs, store=store, overrides=["batchSize=3"])
    with pytest.raises(archive.SameContent, match=r"fingers 1\.0 has the same content: nothing is built"):
        build("fingers", "2.0", runs=runs, store=store, overrides=["batchSize=3"], unlike="1.0")
    assert sorted(path.name for path in store.iterdir()) == ["fingers-1.0.json", "fingers-1.0.mar"]
    build("fingers", "2.0", runs=runs, store=store, overrides=["batchSize=4"], unlike="1.0")


def test_a_build_that_was_cut_short_says_so(runs: Path, tmp_path: Path) -> None:
    build("fingers", "1.0", runs=runs, store=tmp_path).sidecar.unlink()
    with pytest.raises(ArchiveError, match=r"fingers-1.0.mar has no sidecar: .* Remove it and build it again"):
        build("fingers", "1.0", runs=runs, store=tmp_path)


def test_what_a_killed_build_left_goes_with_a_later_one(runs: Path, tmp_path: Path) -> None:
    old, new = tmp_path / f"{prune.BUILDING}old", tmp_path / f"{prune.BUILDING}new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "fingers-1.0.mar").write_bytes(b"half")
    os.utime(old, (0, 0))
    build("fingers", "1.0", runs=runs, store=tmp_path)
    assert not old.exists() and new.exists()


def test_builds_of_one_name_at_once_do_not_collide(runs: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with ThreadPoolExecutor(4) as pool:
        built = list(pool.map(lambda n: build("fingers", f"1.{n}", runs=runs, store=store), range(8)))
    expected = (runs / "fingers" / "model.pt").read_bytes()
    for each in built:
        each.check()
        with zipfile.ZipFile(each.path) as file:
            assert file.testzip() is None and file.read("model.pt") == expected


@pytest.mark.parametrize("links", [True, False])
def test_of_two_builds_of_one_version_one_wins(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*names: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:  # as on a FAT file system
        monkeypatch.setattr(os, "link", refuse)

    def attempt(_: int) -> str:
        try:
            return str(build("fingers", "1.0", runs=runs, store=tmp_path / "store").path.name)
        except ArchiveError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(attempt, range(4)))
    assert said.count("fingers-1.0.mar") == 1
    assert sum("never overwritten" in each for each in said) == 3


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("nothing", "1.0", "make train NAME=nothing"),
        ("../x", "1.0", "cannot name"),
        ("fingers", "v1", "cannot be a version"),
    ],
)
def test_what_cannot_be_built_says_why(runs: Path, tmp_path: Path, name: str, version: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=message):
        build(name, version, runs=runs, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_spec_that_unpacks_to_too_much_is_not_read(runs: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(runs / "fingers" / "model.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/extra/spec.json", b" " * (model_store.LARGEST_SPEC + 1))
    with pytest.raises(ArchiveError, match=r"model.pt holds no spec.json"):
        build("fingers", "1.0", runs=runs, store=tmp_path / "store")


@pytest.mark.parametrize("content", [b"not a zip", b""])
def test_weights_that_are_no_artifact_are_refused(runs: Path, tmp_path: Path, content: bytes) -> None:
    (runs / "fingers" / "model.pt").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"model.pt holds no spec.json"):
        build("fingers", "1.0", runs=runs, store=tmp_path / "store")


def test_int8_travels_beside_the_weights_and_not_with_compiled_ones(runs: Path, tmp_path: Path) -> None:
    run, store = runs / "fingers", tmp_path / "store"
    (run / "model.pt2").write_bytes((run / "model.pt").read_bytes())
    with pytest.raises(ArchiveError, match=r"has no model\.int8\.pt \(it was never exported\)"):
        build("fingers", "1.0", runs=runs, store=store, overrides=["handler.precision=int8"])
    (run / "model.int8.pt").write_bytes(b"rounded")
    with pytest.raises(ArchiveError, match="needs FORMAT=torchscript"):
        build("fingers", "1.0", runs=runs, store=store, overrides=["handler.precision=int8"], kind="pt2")
    for version, kind, travels in (("1.0", "torchscript", True), ("1.1", "pt2", False)):
        with zipfile.ZipFile(build("fingers", version, runs=runs, store=store, kind=kind).path) as file:
            assert ("model.int8.pt" in file.namelist()) is travels


def test_the_fine_tuned_network_is_packed_once_it_was_deployed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rehearsal, "rehearse", lambda _: None)
    first = runs / "fingers"
    tuned = write_run(tmp_path / "other", classes=["tuned"]).joinpath("fingers").rename(first / "tuned")
    for run in (first, tuned):
        (run / "train.json").write_text(json.dumps({"key": run.name}))

    def packs(version: str, *options: str) -> str:
        monkeypatch.setattr("sys.argv", ["archive", "fingers", version, *options])
        assert archive.main() == 0
        assert capsys.readouterr().out.startswith(f"model_store/fingers-{version}.mar (0.")
        with zipfile.ZipFile(f"model_store/fingers-{version}.mar") as packed:
            return "tuned" if packed.read("model.pt") == (tuned / "model.pt").read_bytes() else "first"

    for number, (choice, expected) in enumerate(
        [
            ({"keys": ["fingers", "tuned"], "version": None}, "first"),  # compared, not deployed
            ({"keys": ["fingers", "tuned"], "version": "1.1"}, "tuned"),
            ({"keys": ["fingers", "trained again"], "version": "1.1"}, "first"),
            ([1], "first"),
            ({"deploys": True}, "first"),
            ({"keys": None}, "first"),
            ({"keys": ["fingers", "tuned"]}, "first"),
        ]
    ):
        (tuned / "choice.json").write_text(json.dumps(choice))
        assert packs(f"1.{number}") == expected
        assert fine_tuning.deployed(*fine_tuning.runs("fingers")).path.name == {"first": "fingers"}.get(
            expected, "tuned"
        )
    (tuned / "choice.json").write_text(json.dumps({"keys": ["fingers", "tuned"], "version": "1.1"}))
    assert packs("2.0", "--run", "runs/fingers") == "first"
    (tuned / "model.pt").unlink()
    with pytest.raises(
        ArchiveError, match=r"runs/fingers/tuned/model.pt does not exist: make up RAW=.* NAME=fingers w"
    ):
        build("fingers", "3.0")
    with pytest.raises(ArchiveError, match=r"runs/tuned/model.pt does not exist: make train NAME=tuned "):
        build("tuned", "1.0")


def test_workers_that_are_asked_for_have_a_most(runs: Path, tmp_path: Path) -> None:
    assert not {"minWorkers", "maxWorkers"} & set(model_config.configure([]))
    assert model_config.configure(["minWorkers=3"])["maxWorkers"] == 3
    assert model_config.configure(["maxWorkers=4", "minWorkers=3"])["maxWorkers"] == 4


def test_settings_can_be_overridden_by_name() -> None:
    settings = model_config.configure(["batchSize=16", "handler.top_k=3"])
    assert settings["batchSize"] == 16 and settings["handler"]["top_k"] == 3
    assert model_config.DEFAULTS["handler"]["top_k"] == 5
    assert model_config.configure(["handler.precision=fp32"])["handler"]["precision"] == "fp32"
    for wrong in ("handler.precision=bf17", "handler.top_k=0"):
        with pytest.raises(ArchiveError, match=r"must be"):
            model_config.configure([wrong])
    for wrong in ("batch=1", "handler=1", "handler.x=1", "top_k=1", "batchSize=-1", "batchSize=x", "batchSize"):
        with pytest.raises(ArchiveError, match=r"not a setting|whole number"):
            model_config.configure([wrong])


def test_the_command_builds_in_the_current_directory(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    write_servable(tmp_path / "runs" / "small")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving.archive", *arguments]
        return subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True)

    done = run("small", "1.0", "maxBatchDelay=0")
    assert done.returncode == 0 and done.stdout.startswith("model_store/small-1.0.mar"), done.stderr
    with zipfile.ZipFile(tmp_path / "model_store" / "small-1.0.mar") as file:
        assert yaml.safe_load(file.read("model-config.yaml"))["maxBatchDelay"] == 0
    again = run("small", "1.0")
    assert again.returncode == 1 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1
