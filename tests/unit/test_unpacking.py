"""Archives as RAW=: what is unpacked, once for the same bytes, and what is refused in one line."""

import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from pipeline import unpacking
from pipeline.data import data
from pipeline.unpacking import unpack
from tests.unit import class_folders
from training.data.records import DatasetError
from training.data.store import PreparedDataset


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return class_folders.write(tmp_path / "my images", 3)


def zipped(path: Path, members: dict[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def tarred(path: Path, *members: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for member in members:
            packed.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    return info


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
@pytest.mark.parametrize("around", [True, False])
def test_an_archive_gives_the_folder_that_was_packed(kind: str, around: bool, raw: Path, tmp_path: Path) -> None:
    where = (raw.parent, raw.name) if around else (raw, ".")
    packed = Path(shutil.make_archive(str(tmp_path / "pets, 2024"), kind, *where))
    folder = unpack(packed, tmp_path)
    assert content(folder) == content(raw)
    assert folder.relative_to(tmp_path / "data" / "raw" / "unpacked").parts[0].startswith("pets__2024-")
    assert unpacking.is_archive(packed) and unpacking.name_of(packed) == "pets, 2024"


def test_the_same_bytes_are_unpacked_once_and_others_beside_them(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", raw))
    first = unpack(packed, tmp_path)
    (raw / "cat" / "0000.jpg").unlink()
    other = unpack(Path(shutil.make_archive(str(tmp_path / "pets"), "zip", raw)), tmp_path)
    assert other != first and len(content(other)) == len(content(first)) - 1 == 8
    monkeypatch.setattr(unpacking, "_extract", lambda *_: pytest.fail("it was unpacked again"))
    assert unpack(packed, tmp_path) == other


def test_a_folder_that_is_a_side_is_not_stepped_into(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "signs.zip", {"signs/asl_alphabet_train/asl_alphabet_train/A/A1.jpg": b"1"})
    assert [path.name for path in unpack(packed, tmp_path).iterdir()] == ["asl_alphabet_train"]


def test_of_two_that_unpack_at_once_the_second_uses_what_the_first_made(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "pets"), "zip", raw))
    extract, first = unpacking._extract, []

    def meet(path: Path, folder: Path, console: Console) -> None:
        monkeypatch.setattr(unpacking, "_extract", extract)
        first.append(unpack(path, tmp_path))
        extract(path, folder, console)

    monkeypatch.setattr(unpacking, "_extract", meet)
    assert unpack(packed, tmp_path) == first[0] and content(first[0]) == content(raw)
    assert [path.name for path in (tmp_path / unpacking.CACHE).iterdir()] == [first[0].name]


def test_names_of_other_systems_are_read(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "odd.zip", {"tea\\2.jpg": b"2", "cafe/3.jpg": b"3"})
    # UTF-8 that is not said to be, as a Mac writes it.
    packed.write_bytes(packed.read_bytes().replace(b"cafe/", "caf\u00e9".encode()))
    assert set(content(unpack(packed, tmp_path))) == {"tea/2.jpg", "caf\u00e93.jpg"}


def _link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("cat/link.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip up": (lambda path: zipped(path, {"../../evil.jpg": b"x"}), "'../../evil.jpg' leads out"),
    "zip absolute": (lambda path: zipped(path, {"/tmp/evil.jpg": b"x"}), "'/tmp/evil.jpg' leads out"),
    "zip backslash": (lambda path: zipped(path, {"..\\evil.jpg": b"x"}), "leads out"),
    "zip link": (lambda path: zipped(path, {_link(): b"/etc/passwd"}), "'cat/link.jpg' is a link"),
    "zip twice": (lambda path: zipped(path, {"a/1.jpg": b"x", "a/./1.jpg": b"y"}), "'a/./1.jpg' twice"),
    "zip both": (lambda path: zipped(path, {"a": b"x", "a/1.jpg": b"y"}), "'a/1.jpg' twice"),
    "zip deep": (lambda path: zipped(path, {"a/" * 1900 + "1.jpg": b"x"}), "is too deep or too long"),
    "zip long": (lambda path: zipped(path, {"\u00fc" * 128 + "/1.jpg": b"x"}), "is too deep or too long"),
    "tar up": (lambda path: tarred(path, member("a/../../evil.jpg")), "leads out"),
    "tar absolute": (lambda path: tarred(path, member("/tmp/evil.jpg")), "leads out"),
    "tar link": (lambda path: tarred(path, member("cat/l", tarfile.SYMTYPE)), "'cat/l' is a link"),
    "tar hard link": (lambda path: tarred(path, member("cat/h", tarfile.LNKTYPE)), "'cat/h' is a link"),
    "tar device": (lambda path: tarred(path, member("cat/d", tarfile.CHRTYPE)), "'cat/d' is a device"),
    "tar pipe": (lambda path: tarred(path, member("cat/p", tarfile.FIFOTYPE)), "'cat/p' is a device"),
    "zip bomb": (lambda path: zipped(path, {"cat/1.jpg": bytes(10**7)}), "grows to more than"),
    "tar bomb": (lambda path: tarred(path, member("cat/1.jpg", size=10**7), mode="w:gz"), "grows to more than"),
    "many": (lambda path: tarred(path, *(member(f"cat/{n}") for n in range(9000)), mode="w:xz"), "grows to more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_to_be_trusted_is_refused_and_nothing_is_left(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "ALLOWANCE", 10**6)
    make, message = HOSTILE[case]
    packed = make(tmp_path / "archive")
    assert unpacking.is_archive(packed)
    with pytest.raises(DatasetError, match=message.replace(".", r"\.").replace("(", r"\(")) as caught:
        unpack(packed, tmp_path / "root")
    assert "unpack it yourself and give the folder with RAW=<folder>" in str(caught.value)
    assert content(tmp_path / "root") == {} and not list((tmp_path / "root" / unpacking.CACHE).iterdir())
    assert not (tmp_path / "evil.jpg").exists()


def test_a_disk_without_room_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_SPARE_BYTES", 10**18)
    with pytest.raises(DatasetError, match=r"grows to more than 0\.0 GB, which is more than there is room for"):
        unpack(zipped(tmp_path / "a.zip", {"cat/1.jpg": b"x"}), tmp_path)


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "secret.zip", {"cat/1.jpg": b"x" * 40})
    content = bytearray(packed.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1
    packed.write_bytes(content)
    with pytest.raises(DatasetError, match=r"'cat/1\.jpg' is encrypted"):
        unpack(packed, tmp_path)


def test_compression_that_zipfile_does_not_know_is_not_called_damage(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "deflate64.zip", {"cat/1.jpg": b"x" * 40})
    content = bytearray(packed.read_bytes())
    for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.index(mark) + at] = 9
    packed.write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"compression method is not supported\. If you trust it, unpack it yourself"
    ):
        unpack(packed, tmp_path)


# A tar has no checksum of its contents: there a changed image is seen when it is decoded.
@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, "cut") for kind in ("zip", "tar", "gztar", "bztar", "xztar")),
        *((kind, "changed") for kind in ("zip", "gztar", "bztar", "xztar")),
    ],
)
def test_a_damaged_archive_is_one_line(kind: str, damage: str, raw: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "pets"), kind, raw))
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 255
    packed.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    assert unpacking.is_archive(packed)
    with pytest.raises(DatasetError, match=r"cannot be unpacked, .*\. Copy or download it again") as caught:
        unpack(packed, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / unpacking.CACHE).iterdir())


def test_a_tar_that_is_cut_between_two_members_is_noticed(raw: Path, tmp_path: Path) -> None:
    packed = Path(shutil.make_archive(str(tmp_path / "pets"), "tar", raw))
    with tarfile.open(packed) as archive:
        end = archive.getmembers()[-1].offset
    packed.write_bytes(packed.read_bytes()[:end])
    with pytest.raises(DatasetError, match="it is cut off"):
        unpack(packed, tmp_path)


def test_make_data_prepares_an_archive(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    packed = Path(shutil.make_archive(str(tmp_path / "pets"), "gztar", raw.parent, raw.name))
    run = data("class_folders", str(packed), "pets", tmp_path, ("augment=0", "dataset.image_size=8"))
    assert list(run.seconds) == ["unpack", "prepare"]
    prepared = PreparedDataset.open(tmp_path / "data" / "processed" / "pets")
    assert len(prepared) == 9 and prepared.raw.is_relative_to(tmp_path / unpacking.CACHE)
