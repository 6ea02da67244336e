"""Which requests belong to a share, and how long a file asks for one."""

import os
import time
from pathlib import Path

import pytest

from handlers import sampling
from handlers.sampling import CANARY, LIFETIME, Share, ShareFile, is_selected

IDS = [f"request-{number}" for number in range(20_000)]


def test_a_share_holds_its_part_and_larger_shares_hold_smaller_ones() -> None:
    tenth, half = ({one for one in IDS if is_selected(one, share)} for share in (0.1, 0.5))
    assert tenth < half and len(tenth) == pytest.approx(2000, rel=0.05) and len(half) == pytest.approx(10_000, rel=0.02)
    assert not any(is_selected(one, 0.0) for one in IDS) and all(is_selected(one, 1.0) for one in IDS)


def test_the_shares_of_two_purposes_are_independent() -> None:
    both = sum(is_selected(one, 0.1) and is_selected(one, 0.1, CANARY) for one in IDS)
    assert both == pytest.approx(200, rel=0.2)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShareFile:
    """Return a file that is looked at in every call."""
    monkeypatch.setattr(sampling, "PERIOD", 0.0)
    return ShareFile(tmp_path / "folder" / "birds.json")


def test_a_file_asks_until_it_is_removed_or_nobody_renews_it(file: ShareFile, tmp_path: Path) -> None:
    path, share = tmp_path / "folder" / "birds.json", Share("2.0", 0.25)
    assert file.read() is None
    file.write(share)
    assert file.read() == share
    os.utime(path, (time.time() - LIFETIME - 1,) * 2)
    assert file.read() is None
    file.renew()
    assert file.read() == share
    os.utime(path, (time.time() + LIFETIME + 1,) * 2)
    assert file.read() is None, "the clock was set back"
    file.remove()
    file.remove()
    assert file.read() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "2.0"}', '{"version": "2.0", "share": 1, "more": 1}'])
def test_a_damaged_file_asks_for_nothing(file: ShareFile, tmp_path: Path, text: str) -> None:
    file.write(Share("2.0", 1.0))
    (tmp_path / "folder" / "birds.json").write_text(text)
    assert file.read() is None
