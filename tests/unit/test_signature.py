"""Signed archives: what is signed is served, and nothing else once a server has a public key."""

import base64
import json
import stat
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import container, sign
from serving.store import model_store, signature
from serving.store.model_store import Archive
from serving.store.signature import PUBLIC_KEY, SignatureError

pytest.importorskip("model_signing", reason=signature.INSTALL)
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of the package's hashing


def archive_in(root: Path, version: str = "1.0", content: bytes = b"weights") -> Archive:
    """Write an archive of one member into the store of a directory."""
    store = root / model_store.FOLDER
    store.mkdir(exist_ok=True)
    archive = Archive("m", version, model_store.path_of("m", version, store))
    with zipfile.ZipFile(archive.path, "w") as file:
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": {"modelName": "m", "modelVersion": version}}))
        file.writestr("content", content)
    return archive


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "signing.key"
    signature.create_key(path, tmp_path)
    return path


def test_without_a_public_key_nothing_is_asked_for(tmp_path: Path) -> None:
    signature.check(archive_in(tmp_path), tmp_path)


def test_what_is_signed_passes_and_what_has_changed_does_not(tmp_path: Path, key: Path) -> None:
    archive = archive_in(tmp_path)
    with pytest.raises(SignatureError, match=r"m-1\.0\.mar is not signed: sign it"):
        signature.check(archive, tmp_path)
    assert signature.sign(archive, key) == tmp_path / "model_store" / "m-1.0.sig"
    signature.check(archive, tmp_path)
    archive_in(tmp_path, content=b"other weights")
    with pytest.raises(SignatureError, match="has changed since it was signed"):
        signature.check(archive, tmp_path)


def test_what_somebody_else_signed_is_refused(tmp_path: Path, key: Path) -> None:
    other, archive = tmp_path / "other", archive_in(tmp_path)
    other.mkdir()
    signature.create_key(other / "signing.key", other)
    signature.sign(archive, other / "signing.key")
    with pytest.raises(SignatureError, match=r"is not signed with signing\.pub"):
        signature.check(archive, tmp_path)
    signature.path_of(archive).write_text("{}")
    with pytest.raises(SignatureError, match=r"is not signed with signing\.pub"):
        signature.check(archive, tmp_path)
    for forged in forgeries(archive, key):
        signature.path_of(archive).write_text(forged)
        with pytest.raises(SignatureError, match=r"is not signed with signing\.pub"):
            signature.check(archive, tmp_path)
    signature.sign(archive_in(tmp_path, "2.0"), key)
    signature.path_of(archive_in(tmp_path, "2.0")).replace(signature.path_of(archive))  # that of another version
    with pytest.raises(SignatureError, match="has changed since it was signed"):
        signature.check(archive, tmp_path)


def forgeries(archive: Archive, key: Path) -> Iterator[str]:
    """Yield signatures that name the right key, with another content and without a signature."""
    bundle = json.loads(signature.sign(archive, key).read_text())
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"sha256", b"sha512")).decode()
    yield json.dumps({**bundle, "dsseEnvelope": {**envelope, "payload": payload}})
    yield json.dumps({**bundle, "dsseEnvelope": {**envelope, "signatures": []}})


def test_a_key_that_cannot_be_read_is_named(tmp_path: Path, key: Path) -> None:
    archive = archive_in(tmp_path)
    signature.sign(archive, key)
    (tmp_path / PUBLIC_KEY).write_text("no key")
    with pytest.raises(SignatureError, match=r"signing\.pub cannot be read .*copy it here again"):
        signature.check(archive, tmp_path)
    (tmp_path / PUBLIC_KEY).unlink()
    (tmp_path / PUBLIC_KEY).symlink_to("gone")
    with pytest.raises(SignatureError, match=r"signing\.pub cannot be read"):
        signature.check(archive, tmp_path)


def test_a_key_is_its_owner_s_and_is_made_once(tmp_path: Path, key: Path) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for path, message in (
        (key, "signing.key exists: remove"),
        (tmp_path / "another.key", "signing.pub exists"),
    ):
        with pytest.raises(SignatureError, match=message):
            signature.create_key(path, tmp_path)
    assert not (tmp_path / "another.key").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "1.0", "--key", "absent.key"], "absent.key does not exist"),
        (["m", "1.0", "--key", str(PUBLIC_KEY)], "cannot sign"),
        (["m", "9.9", "--key", "absent.key"], "no archive of m 9.9"),
        (["--new-key", "again.key"], "signing.pub exists"),
    ],
)
def test_what_cannot_be_signed_is_one_line(
    tmp_path: Path,
    key: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    archive_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sign", *arguments])
    assert sign.main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list((tmp_path / "model_store").glob("*.sig"))


def test_the_command_makes_a_key_and_signs_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archives = [archive_in(tmp_path, version) for version in ("1.0", "2.0")]
    monkeypatch.chdir(tmp_path)
    for arguments in (["--new-key", "signing.key"], ["m", "--key", "signing.key"]):
        monkeypatch.setattr(sys, "argv", ["sign", *arguments])
        assert sign.main() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "model_store/m-2.0.sig"
    signature.check(archives[1], tmp_path)


def test_the_key_of_an_image_holds_in_another_working_directory(tmp_path: Path, key: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    archive = archive_in(work)
    container.link_key(work, image=tmp_path)
    container.link_key(work, image=tmp_path)  # again, as after a restart
    with pytest.raises(SignatureError):
        signature.check(archive, work)
    signature.sign(archive, key)
    signature.check(archive, work)
    (tmp_path / "other").mkdir()
    container.link_key(tmp_path / "other", image=work / "none")
    assert not (tmp_path / "other" / PUBLIC_KEY).exists()
