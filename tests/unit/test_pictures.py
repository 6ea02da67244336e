"""The comparison of public test pictures with libvips counts what it should."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.campaigns import libvips, pictures
from tests.campaigns.pictures import Finding


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (level,) * 3).save(file, "PNG")
    return file.getvalue()


def reference(level: int, whole: bool = True) -> libvips.Reference:
    return libvips.Reference(np.full((4, 4, 3), level, np.uint8), whole, profile=False)


@pytest.mark.parametrize(
    ("data", "theirs", "outcome"),
    [
        (png(100), reference(108), "same"),
        (png(100), reference(109), "wrong"),
        (png(100), reference(109, whole=False), "wrong, damaged"),
        (png(100)[:-30], reference(100), "not damaged"),
        (png(100)[:-30], reference(100, whole=False), "damaged"),
        (b"8BPS\0\1" + bytes(20), reference(100), "kind"),
        (png(100), None, "only ours"),
    ],
)
def test_every_outcome_is_counted_as_what_it_is(
    data: bytes, theirs: libvips.Reference | None, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(data: bytes) -> libvips.Reference:
        if theirs is None:
            raise libvips.Unread("no")
        return theirs

    monkeypatch.setattr(libvips, "read", read)
    assert pictures.compare(data).outcome == outcome


def test_an_error_that_is_no_reason_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvips, "read", lambda data: reference(100))
    monkeypatch.setattr(pictures, "decode", lambda data: 1 / 0)
    assert pictures.compare(png(100)) == Finding("traceback", "ZeroDivisionError: division by zero")


def test_equal_files_count_once_and_faults_are_named(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/2.PNG", "b/1.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    assert [path.name for path in pictures.pictures(tmp_path)] == ["1.png"]
    result = pictures.document(
        {"a/1": Finding("same"), "a/2": Finding("kind", "X are not served; go"), "b/1": Finding("wrong", "by 9")}
    )
    assert result["projects"] == {"a": {"same": 1, "kind": 1}, "b": {"wrong": 1}}
    assert result["kinds"] == {"X": 1} and result["faults"] == {"b/1": "wrong: by 9"}


def test_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIGHTLINE_TEST_PICTURES", raising=False)
    with pytest.raises(SystemExit):
        pictures.main([])
    assert "set SIGHTLINE_TEST_PICTURES to a folder" in capsys.readouterr().err
    monkeypatch.setenv("SIGHTLINE_TEST_PICTURES", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        pictures.main([])
    assert "libvips is missing: uv pip install" in capsys.readouterr().err


def test_a_difference_is_explained_only_where_libvips_is_known_to_be_at_fault() -> None:
    assert pictures.explained("a/x.monochrome.avif", Finding("wrong", "by 9.2 levels")).outcome == "explained"
    assert pictures.explained("a/x.monochrome.avif", Finding("not damaged")).outcome == "not damaged"
    assert pictures.explained("a/x.avif", Finding("wrong")).outcome == "wrong"
