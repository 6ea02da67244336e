"""Names, versions and archives of a model store."""

import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from serving.store import model_store
from serving.store.model_store import Archive, ArchiveError


def put(store: Path, name: str, version: str, *, says: tuple[str, str] | None = None) -> Path:
    """Write an archive that has only its manifest."""
    store.mkdir(exist_ok=True)
    path = model_store.path_of(name, version, store)
    named = says or (name, version)
    with zipfile.ZipFile(path, "w") as file:
        manifest = {"model": {"modelName": named[0], "modelVersion": named[1]}}
        file.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return path


@pytest.mark.parametrize("name", ["fingers", "asl-alphabet", "a", "Moths_2", "x.y", "a" * 64])
def test_a_name_that_urls_and_files_can_hold_is_taken(name: str) -> None:
    model_store.check_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a.", "a-", "a/b", "a b", "ä", "../a", "a=b", "a\n", "a" * 65, "tokens"]
)
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError, match="cannot name a model"):
        model_store.check_name(name)


@pytest.mark.parametrize("version", ["1", "1.0", "10.2.3", "1.0.rc1"])
def test_a_version_is_taken(version: str) -> None:
    model_store.check_version(version)


@pytest.mark.parametrize("version", ["", "v1", "1-0", "1.", ".1", "1..0", "latest", "1/0", "1.0\n"])
def test_another_version_is_refused(version: str) -> None:
    with pytest.raises(ArchiveError, match="cannot be a version"):
        model_store.check_version(version)


def test_versions_sort_as_numbers(tmp_path: Path) -> None:
    for version in ("2.0", "10.0", "9.9", "2", "2.0.1"):
        put(tmp_path, "a-b", version)
    assert [each.version for each in model_store.archives(tmp_path)] == ["2", "2.0", "2.0.1", "9.9", "10.0"]
    assert {each.name for each in model_store.archives(tmp_path)} == {"a-b"}


def test_nothing_asked_for_is_the_newest_of_every_model(tmp_path: Path) -> None:
    for name, version in (("a", "1.0"), ("a", "1.10"), ("a", "1.9"), ("b", "3")):
        put(tmp_path, name, version)
    (tmp_path / "a-1.10.json").write_text("{}")
    (tmp_path / "foreign.mar").write_bytes(b"")
    chosen = model_store.select((), tmp_path)
    assert [(each.name, each.version) for each in chosen] == [("a", "1.10"), ("b", "3")]
    chosen = model_store.select(("b", "a=1.0"), tmp_path)
    assert [(each.name, each.version) for each in chosen] == [("b", "3"), ("a", "1.0")]


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    put(tmp_path, "a", "1.0")
    with pytest.raises(ArchiveError, match=r"no archive of a 2.0 .*available: a 1.0.*make archive NAME=a VERSION=2.0"):
        model_store.find("a", "2.0", tmp_path)
    put(tmp_path, "a", "1.1")
    for twice in (("a", "a=1.1"), ("a=1.0", "a=1.1")):
        with pytest.raises(ArchiveError, match=r"^a: named twice"):
            model_store.select(twice, tmp_path)
    with pytest.raises(ArchiveError, match="no archive in"):
        model_store.select((), tmp_path / "empty")


def test_an_archive_is_whole_and_says_its_own_name(tmp_path: Path) -> None:
    path = put(tmp_path, "a", "1.0")
    Archive("a", "1.0", path).check()
    renamed = put(tmp_path, "b", "1.0", says=("a", "1.0"))
    with pytest.raises(ArchiveError, match=r"holds a 1\.0"):
        Archive("b", "1.0", renamed).check()
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArchiveError, match="not a complete archive"):
        Archive("a", "1.0", path).check()
    with pytest.raises(ArchiveError, match="not a complete archive"):
        Archive("a", "1.0", path).model_config()


def test_an_archive_whose_name_has_no_version_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    put(tmp_path, "ours", "1.0")
    stock = tmp_path / "a $stock.mar"  # torch-model-archiver leaves the version out of a file's name
    put(tmp_path, "stock", "2.0").rename(stock)
    put(tmp_path, "theirs", "1.0", says=("theirs", "v1")).rename(tmp_path / "theirs-v1.mar")
    (tmp_path / "damaged.mar").write_text("damaged")
    (tmp_path / "folder.mar").mkdir()
    lines = model_store.misnamed(tmp_path)
    assert lines[:2] == [
        f"a $stock.mar is not served, since its name has no version: mv -n '{stock}' {tmp_path / 'stock-2.0.mar'}",
        "damaged.mar is not served, since it is not a complete archive: remove it",
    ]
    assert lines[2].startswith("theirs-v1.mar is not served, since 'v1' cannot be a version: use numbers and points")
    assert [each.path.name for each in model_store.archives(tmp_path)] == ["ours-1.0.mar"]
    subprocess.run(["bash", "-c", lines[0].partition(": ")[2]], check=True)
    assert (tmp_path / "stock-2.0.mar").is_file()
