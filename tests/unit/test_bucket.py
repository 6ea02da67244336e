"""Archives in an object store: put there, got from there, and what is refused."""

from functools import partial
from pathlib import Path

import pytest

from serving import archive, bucket
from tests.unit.archived_run import write_run

build = partial(archive.build, rehearse=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with an archive in its store; `bucket` beside it is for the archives."""
    folder = tmp_path / "server"
    build("fingers", "1.0", runs=write_run(folder / "runs"), store=folder / "model_store")
    monkeypatch.chdir(folder)
    return folder


def test_an_archive_goes_there_and_back(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/bucket"
    assert bucket.main(["put", url, "fingers=1.0"]) == 0
    (tmp_path / "pod").mkdir()
    monkeypatch.chdir(tmp_path / "pod")
    assert bucket.main(["get"], {bucket.BUCKET: url, bucket.MODELS: "fingers=1.0"}) == 0
    for name in ("fingers-1.0.mar", "fingers-1.0.json"):
        assert Path("model_store", name).read_bytes() == (root / "model_store" / name).read_bytes()


def test_a_damaged_archive_does_not_arrive(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{tmp_path}/bucket"
    assert bucket.main(["put", url, "fingers=1.0"]) == 0
    (copy,) = (tmp_path / "bucket").rglob("*.mar")
    copy.write_bytes(copy.read_bytes()[:-1])
    (tmp_path / "pod").mkdir()
    monkeypatch.chdir(tmp_path / "pod")
    assert bucket.main(["get", url, "fingers=1.0"]) == 1
    assert "damaged" in capsys.readouterr().err
    assert not list(Path("model_store").glob("fingers*"))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["get"], "SIGHTLINE_BUCKET"),
        (["get", "gs://bucket"], "birds=2.0"),
        (["get", "file:///nowhere", "fingers"], "birds=2.0"),
        (["get", "file:///nowhere", "fingers=3.0"], "deploy it again"),
        (["put", "file:///proc/nowhere", "fingers=1.0"], "check the address"),
        (["put", "file:///nowhere", "fingers=3.0"], "make archive"),
    ],
)
def test_what_is_missing_is_named_in_a_line(
    root: Path, words: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bucket.main(words, {}) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and remedy in error and error.count("\n") == 1
