"""What is wrong with an archive is found, and said in a line, before anybody serves it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import small_server
from handlers import golden
from serving import archive, verify
from serving.store import provenance
from serving.store.model_store import Archive, ArchiveError
from tests.unit.archived_run import write_servable

ROOT = Path(__file__).parents[2]
Change = Callable[[dict[str, bytes]], object]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    folder = tmp_path_factory.mktemp("built")
    run = write_servable(folder / "runs" / "small")
    overrides = ["handler.precision=fp32"]
    return archive.build("small", "1.0", run=run, store=folder / "model_store", overrides=overrides, rehearse=False)


@pytest.fixture
def copied(built: Archive, tmp_path: Path) -> Archive:
    """Return an archive that a test may damage."""
    store = tmp_path / "model_store"
    shutil.copytree(built.path.parent, store)
    return Archive("small", "1.0", store / built.path.name)


def repack(damaged: Archive, change: Change) -> None:
    """Change the members of an archive, and let its sidecar say so."""
    small_server.edit(damaged.path, change)
    said = {"sha256": provenance.sha256(damaged.path), "bytes": damaged.path.stat().st_size}
    edit(damaged, **said)


def edit(damaged: Archive, **changes: object) -> None:
    document = json.loads(damaged.sidecar.read_text()) | changes
    damaged.sidecar.write_text(json.dumps(document))


def refused(damaged: Archive) -> str:
    with pytest.raises(ArchiveError) as caught:
        verify.verify(damaged, rehearse=False)
    assert "\n" not in str(caught.value) and "build it again" in str(caught.value)
    return str(caught.value)


def test_an_archive_of_another_builder_is_named_so(tmp_path: Path) -> None:
    stock = Archive("stock", "1.0", tmp_path / "stock-1.0.mar")
    with zipfile.ZipFile(stock.path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", '{"model": {"handler": "image_classifier"}}')
    with pytest.raises(ArchiveError, match=r"was not built by make archive .* make serve serves it$"):
        verify.verify(stock)


def test_a_whole_archive_passes_every_check(built: Archive) -> None:
    verified = verify.verify(built)
    assert [check.name for check in verified.checks] == ["hash", "structure", "provenance", "golden answers"]
    assert all(check.seconds >= 0 for check in verified.checks)
    assert verified.rehearsed is not None and verified.rehearsed.images == 3
    assert verified.sidecar["classes"] == ["ant", "bee", "cat"]
    assert verify.verify(built, rehearse=False).rehearsed is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null", '{"sha256": "", "bytes": 1}'])
def test_a_damaged_sidecar_is_told(copied: Archive, text: str) -> None:
    copied.sidecar.write_text(text)
    assert "small-1.0.json is " in refused(copied)


def test_a_missing_file_is_told(copied: Archive) -> None:
    copied.sidecar.unlink()
    assert "has no sidecar: its build was interrupted" in refused(copied)
    copied.path.unlink()
    with pytest.raises(ArchiveError, match=r"small-1\.0\.mar does not exist: make archive NAME=small VERSION=1\.0"):
        verify.verify(copied)


def test_the_sidecar_of_another_archive_is_told(copied: Archive) -> None:
    edit(copied, version="2.0")
    assert "small-1.0.json describes small 2.0" in refused(copied)


def test_a_file_that_was_cut_or_changed_on_the_way_is_told(copied: Archive) -> None:
    whole = copied.path.read_bytes()
    copied.path.write_bytes(whole[:-100])
    assert f"has {len(whole) - 100} bytes, not the {len(whole)} that were built" in refused(copied)
    copied.path.write_bytes(bytes([*whole[:500], whole[500] ^ 1]) + whole[501:])
    assert "is not the file that was built (sha256 " in refused(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: members.update({"../outside": b""}), "'../outside' is not a path inside it"),
        (lambda members: members.pop("model.pt"), "holds no model.pt:"),
        (lambda members: members.pop("golden.json"), "holds no golden.json:"),
        (lambda members: members.pop("handlers/golden.py"), "holds no handlers/golden.py, which its provenance lists"),
        (
            lambda members: members.update({"sitecustomize.py": b""}),
            "holds sitecustomize.py, which its provenance does",
        ),
        (
            lambda members: members.update({"handlers/golden.py": b""}),
            "is not the packed file",
        ),
        (lambda members: members.update({"provenance.json": b"{}"}), "and its sidecar come from different builds"),
        (lambda members: members.update({"provenance.json": b"[]"}), "and its sidecar come from different builds"),
        (lambda members: members.update({"MAR-INF/MANIFEST.json": b"{}"}), "is not a complete archive"),
        (lambda members: members.pop("provenance.json"), "holds no provenance.json: build it again as another version"),
    ],
)
def test_other_members_than_were_packed_are_told(copied: Archive, change: Change, message: str) -> None:
    repack(copied, change)
    assert message in refused(copied)


def test_another_name_inside_is_told(copied: Archive) -> None:
    renamed = Archive("small", "2.0", copied.path.with_name("small-2.0.mar"))
    copied.path.rename(renamed.path)
    copied.sidecar.rename(renamed.sidecar)
    edit(renamed, version="2.0")
    with pytest.raises(ArchiveError, match=r"holds small 1\.0: a renamed archive cannot be served"):
        verify.verify(renamed, rehearse=False)


@pytest.mark.parametrize("changes", [{"metrics": {"top_1": 1.0}}, {"commit": "0" * 40}, {"members": {}}])
def test_a_sidecar_that_says_otherwise_than_the_archive_is_told(copied: Archive, changes: dict[str, object]) -> None:
    edit(copied, **changes)
    assert "and its sidecar come from different builds" in refused(copied)


def test_a_sidecar_without_members_is_told(copied: Archive) -> None:
    document = json.loads(copied.sidecar.read_text())
    del document["members"]
    copied.sidecar.write_text(json.dumps(document))
    assert "is not complete" in refused(copied)


def test_a_wrong_golden_answer_is_told(copied: Archive) -> None:
    """Everything agrees with everything, and the answers are others."""

    def change(members: dict[str, bytes]) -> None:
        document = json.loads(members[golden.FILE])
        document[0]["probabilities"].append(document[0]["probabilities"].pop(0))
        members[golden.FILE] = json.dumps(document).encode()
        path = copied.path.with_name("golden.json")
        path.write_bytes(members[golden.FILE])
        inside = json.loads(members[provenance.FILE])
        inside["members"][golden.FILE] = provenance.sha256(path)
        members[provenance.FILE] = json.dumps(inside).encode()
        edit(copied, members=inside["members"])

    repack(copied, change)
    verify.verify(copied, rehearse=False)
    with pytest.raises(ArchiveError, match=r"small 1\.0 cannot be served: .*golden image 0\.png is answered otherwise"):
        verify.verify(copied)


def test_the_command_checks_the_newest_or_the_one_named(copied: Archive) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "serving.verify", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(command, cwd=copied.path.parents[1], env=environment, capture_output=True, text=True)

    done = run("small", "")
    assert done.returncode == 0 and "small-1.0.mar can be served" in done.stdout, done.stderr
    assert "golden answers" in done.stdout and "3 images in fp32" in done.stdout
    missing = run("small", "3.0")
    assert missing.returncode == 1 and missing.stderr.startswith("error: no archive of small 3.0")
    copied.path.write_bytes(copied.path.read_bytes()[:1000])
    cut = run("small")
    assert cut.returncode == 1 and "has 1000 bytes" in cut.stderr and cut.stderr.count("\n") == 1


def test_an_archive_of_an_older_release_says_that_pixels_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_servable(tmp_path / "runs" / "small")
    file = run / golden.FILE
    golden.write([dataclasses.replace(image, pixels=None) for image in golden.read(file)], file)
    monkeypatch.setattr(archive, "_refuse_older_golden", lambda _: None)
    older = archive.build("small", "1.0", run=run, store=tmp_path / "store", rehearse=False)
    assert "pixels not compared (exported by an older release)" in verify.verify(older).checks[-1].result
