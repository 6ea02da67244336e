"""A training job of Vertex AI: copies of its run, and the words and variables that it refuses."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline import cloud_training
from pipeline.run_copies import RunCopies
from pipeline.steps import StepError
from serving.fleet import archives
from serving.fleet.shared_document import AddressError
from serving.store.model_store import ArchiveError
from tests.unit.test_fleet import store_with

VARIABLES = {"AIP_MODEL_DIR": "memory://b/model/", "AIP_CHECKPOINT_DIR": "memory://b/checkpoints/"}


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return an address: of a folder, and of a file system that fsspec reaches as it does a bucket."""
    yield f"file://{tmp_path}/copies/" if request.param == "folder" else "memory://copies/"
    fsspec.filesystem("memory").store.clear()


def run_folder(folder: Path, epoch: int) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / "last.ckpt").write_text(f"epoch {epoch}")
    (folder / "metrics.csv").write_text(f"epoch\n{epoch}\n")
    return folder


def test_another_machine_gets_the_newest_whole_copy(url: str, tmp_path: Path) -> None:
    copies, run = RunCopies(url), tmp_path / "a" / "runs" / "birds"
    assert not copies.restore(tmp_path / "b" / "birds") and not (tmp_path / "b" / "birds").exists()
    for epoch in (1, 2):
        copies.save(run_folder(run, epoch))
    assert RunCopies(url).restore(tmp_path / "b" / "birds")
    names = ("checkpoints/last.ckpt", "metrics.csv")
    assert [(tmp_path / "b" / "birds" / name).read_text() for name in names] == ["epoch 2", "epoch\n2\n"]
    files, path = fsspec.core.url_to_fs(url.rstrip("/"))
    assert {name.removeprefix(f"{path}/") for name in files.find(path)} == {"newest.json", *(f"1/{n}" for n in names)}


def test_a_copy_that_was_cut_off_is_never_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies, run = RunCopies(url), tmp_path / "birds"
    copies.save(run_folder(run, 1))
    (run / "zoo").write_text("the last file")
    put = type(copies._files).put_file

    def failing(files: object, source: str, *words: str, **options: object) -> None:
        if source.endswith("zoo"):
            raise OSError("the machine ends")
        put(files, source, *words, **options)

    run_folder(run, 2)
    with monkeypatch.context() as patch:
        patch.setattr(type(copies._files), "put_file", failing)
        with pytest.raises(AddressError, match="the machine ends"):
            copies.save(run)
    assert RunCopies(url).restore(tmp_path / "b")
    assert (tmp_path / "b" / "checkpoints" / "last.ckpt").read_text() == "epoch 1"
    copies.save(run_folder(run, 3))
    assert RunCopies(url).restore(tmp_path / "c")
    assert (tmp_path / "c" / "metrics.csv").read_text() == "epoch\n3\n"


def spec(*machines: int) -> str:
    pools = {f"workerpool{n}": [f"10.0.{n}.{m}:2222" for m in range(count)] for n, count in enumerate(machines)}
    return json.dumps({"cluster": pools, "environment": "cloud", "task": {"type": "workerpool0", "index": 0}})


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (("../x", "raw", "1.0"), {}, "../x"),
        (("birds", "raw", "one"), {}, "'one' cannot be a version"),
        (
            ("birds", "raw", "1.0"),
            {"AIP_MODEL_DIR": ""},
            "AIP_MODEL_DIR is not set: give the job a baseOutputDirectory",
        ),
        (("birds", "raw", "1.0"), {"AIP_CHECKPOINT_DIR": "nosuch://x"}, "nosuch://x cannot be used"),
        (("birds", "raw", "1.0"), {"CLUSTER_SPEC": spec(1, 2)}, "this job has 3 machines, and one trains"),
        (("birds", "raw", "1.0"), {"CLUSTER_SPEC": "[]"}, "CLUSTER_SPEC cannot be read"),
        (("birds", "raw", "1.0"), {"SIGHTLINE_COPY_SECONDS": "often"}, "'often': set a number of seconds"),
        (
            ("birds", "no folder", "1.0"),
            {"CLUSTER_SPEC": spec(1)},
            "no folder is not a folder: name one, or an address",
        ),
    ],
)
def test_what_a_job_cannot_do_is_one_line(
    words: tuple[str, ...],
    variables: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {**VARIABLES, **variables}.items():
        monkeypatch.setenv(name, value)
    assert cloud_training.main(["class_folders", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "runs").exists()


def test_too_few_words_show_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cloud_training.main(["class_folders", "birds"]) == 2
    assert capsys.readouterr().err.startswith("usage: python -m pipeline.cloud_training ")


def test_a_job_whose_archive_exists_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    archives.place(store_with(tmp_path / "store", "1.0", b"weights"), VARIABLES["AIP_MODEL_DIR"])
    job = cloud_training.Job("class_folders", "m", "no folder", "1.0", VARIABLES)
    job.work([])
    assert "has m-1.0.mar: give the next one another version" in capsys.readouterr().out
    with pytest.raises(ArchiveError, match="memory://b/model has another m"):
        archives.place(store_with(tmp_path / "c", "1.0", b"other weights"), VARIABLES["AIP_MODEL_DIR"].rstrip("/"))
    fsspec.filesystem("memory").store.clear()
    with pytest.raises(StepError, match="no folder is not a folder"):
        job.work([])
