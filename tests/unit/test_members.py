"""What an archive's zip may hold: anything else is refused before a byte of it is unpacked."""

import io
import json
import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from serving.store import members
from serving.store.model_store import Archive, ArchiveError

MANIFEST = json.dumps({"model": {"modelName": "a", "modelVersion": "1.0", "serializedFile": "model.pt"}})


def zipped(*more: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of a manifest, weights and `more`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Duplicate name")
        for name, content in (("MAR-INF/MANIFEST.json", MANIFEST.encode()), ("model.pt", b"weights"), *more):
            file.writestr(name, content)
    return buffer.getvalue()


def named(name: str) -> bytes:
    """Return an archive with a member of that very name, which `zipfile` itself might not write."""
    stand_in = "x" * len(name.encode())
    return zipped((stand_in, b"content")).replace(stand_in.encode(), name.encode())


def moded(mode: int) -> bytes:
    member = zipfile.ZipInfo("member")
    member.create_system, member.external_attr = 3, mode << 16
    return zipped((member, b"/etc/passwd"))


def flagged(content: bytes) -> bytes:
    """Say of each member that it is encrypted."""
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        parts = content.split(signature)
        content = signature.join([parts[0], *(part[: offset - 4] + b"\1\0" + part[offset - 2 :] for part in parts[1:])])
    return content


def with_hidden_member() -> bytes:
    """Return an archive with a member that stands in the file and not in its directory: TorchServe unpacks it."""
    hidden = zipped(("handlers/hidden.py", b"import os"))
    hidden = hidden[hidden.rindex(b"PK\3\4") : hidden.index(b"PK\1\2")]
    whole = zipped()
    directory, end = whole.index(b"PK\1\2"), whole.index(b"PK\5\6")
    moved = struct.pack("<L", directory + len(hidden))
    return whole[:directory] + hidden + whole[directory : end + 16] + moved + whole[end + 20 :]


BOMB = zipped(("zeros", bytes(10_000_000)), compression=zipfile.ZIP_DEFLATED)
REFUSED = {
    "a path above": (named("../../outside"), "is not a path inside"),
    "a path above, from inside": (named("handlers/../../outside"), "is not a path inside"),
    "an absolute path": (named("/tmp/outside"), "is not a path inside"),
    "a path of Windows": (named("..\\outside"), "is not a path inside"),
    "a path that is not its own": (named("./model.pt2"), "is not a path inside"),
    "a name that is cut": (named("harmless.py\0.txt"), "is not a path inside"),
    "a folder": (zipped(("folder/", b"")), "is not a path inside"),
    "a symbolic link": (moded(stat.S_IFLNK | 0o777), "'member' is not a regular file"),
    "a device": (moded(stat.S_IFCHR | 0o666), "'member' is not a regular file"),
    "a name twice": (zipped(("model.pt", b"other")), r"'model\.pt' is listed twice"),
    "encrypted": (flagged(zipped()), "cannot be read by TorchServe"),
    "another compression": (zipped(("text", b"abc" * 99), compression=zipfile.ZIP_BZIP2), "cannot be read by TorchS"),
    "a bomb": (BOMB, "unpack to 10000"),
    "bytes before": (b"#!/bin/sh\n" + zipped(), "bytes that its directory does not list"),
    "a hidden member": (with_hidden_member(), "bytes that its directory does not list"),
    "two names for one member": (
        zipped(("spec.py", b"")).replace(b"spec.py", b"json.py", 1),
        "a header that contradicts the directory",
    ),
    "two sizes for one member": (
        zipped().replace(struct.pack("<2L", 7, 7), struct.pack("<2L", 5, 5), 1),
        "a header that contradicts the directory",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_before_anything_is_unpacked(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, message = REFUSED[what]
    path = tmp_path / "store" / "a-1.0.mar"
    path.parent.mkdir()
    path.write_bytes(content)
    unpacked: list[object] = []
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *arguments: unpacked.append(arguments))
    archive = Archive("a", "1.0", path)
    for look in (archive.check, archive.model_config, archive.unpacked().__enter__):
        with pytest.raises(ArchiveError, match=rf"a-1\.0\.mar is not a complete archive \(.*{message}") as caught:
            look()
        assert "\n" not in str(caught.value) and "build it again" in str(caught.value)
    assert not unpacked


def test_a_whole_one_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a-1.0.mar"
    path.write_bytes(zipped(("handlers/spec.py", b"text " * 99), compression=zipfile.ZIP_DEFLATED))
    archive = Archive("a", "1.0", path)
    archive.check()
    with archive.unpacked() as weights:
        assert weights.read_bytes() == b"weights"
        assert (weights.parent / "handlers" / "spec.py").read_bytes() == b"text " * 99
    assert not weights.parent.exists()


def test_more_than_any_model_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a-1.0.mar"
    path.write_bytes(zipped())
    monkeypatch.setattr(members, "LARGEST", 50)
    with pytest.raises(ArchiveError, match="and 50 are read"):
        Archive("a", "1.0", path).check()


def test_weights_that_are_no_member_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a-1.0.mar"
    outside = MANIFEST.replace("model.pt", "../a-1.0.mar")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", outside)
    with pytest.raises(ArchiveError, match=r"There is no item named '\.\./a-1\.0\.mar'"):
        Archive("a", "1.0", path).unpacked().__enter__()


@pytest.mark.parametrize("manifest", ["[]", '{"model": null}', "{", '"text"'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, manifest: str) -> None:
    path = tmp_path / "a-1.0.mar"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", manifest)
    with pytest.raises(ArchiveError, match="not a complete archive"):
        Archive("a", "1.0", path).check()


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    whole = zipped(("text", b"abcdefgh" * 99), compression=zipfile.ZIP_DEFLATED)
    start = whole.index(b"text") + 4
    path = tmp_path / "a-1.0.mar"
    path.write_bytes(whole[: start + 2] + b"\xff\xff\xff" + whole[start + 5 :])
    with pytest.raises(ArchiveError, match="not a complete archive"):
        Archive("a", "1.0", path).unpacked().__enter__()
