"""Ten of the odd layouts of the campaign: the right images, or one clear line, and every file used or named."""

import subprocess
from pathlib import Path

import pytest

from tests.campaigns import commands, layouts
from tests.campaigns.layout_cases import LAYOUTS, Counts, Layout, classes

SAMPLE = (
    *("seg_train/seg_train, seg_test, seg_pred", "images to test beside sides", "flat test images beside valid"),
    *("dogs against cats", "sessions only", "a class without one image", "a link round in a circle"),
    *("suffixes that lie", "one name in two Unicode forms", "scenes with marks and empty lines"),
)


@pytest.mark.parametrize("name", SAMPLE)
def test_an_odd_layout_is_read_or_refused_as_it_should(name: str, tmp_path: Path) -> None:
    assert layouts.attempt(LAYOUTS[name], tmp_path)["fault"] == ""


@pytest.mark.parametrize(
    ("right", "fault"), [("another line", "another line: error: "), ({"cat": (2, 0)}, "refused: ")]
)
def test_the_check_sees_a_wrong_refusal(right: str | Counts, fault: str, tmp_path: Path) -> None:
    assert layouts.attempt(Layout(lambda raw: None, right), tmp_path)["fault"].startswith(fault)


@pytest.mark.parametrize(
    ("layout", "used", "fault"),
    [
        (Layout(classes, {"cat": (3, 0)}), 2, "read {"),
        (Layout(classes, "refused"), 2, "not refused: "),
        (Layout(classes, {"cat": (2, 0)}), 1, "of 3 files 1 used, 1 named"),
        (Layout(classes, {"cat": (2, 0)}, "moths"), 2, "not said: cats"),
        (Layout(classes, {"cat": (2, 0)}, "cats"), 2, ""),
    ],
)
def test_the_check_sees_wrong_images_and_files(layout: Layout, used: int, fault: str) -> None:
    done = subprocess.CompletedProcess([], 0, stdout="", stderr="cats")
    seen = layouts.reading_fault(layout, done, {"cat": (2, 0)}, {"there": 3, "used": used, "named": 1})
    assert seen.startswith(fault) and bool(seen) == bool(fault)


def test_an_interrupt_ends_the_campaign_and_not_only_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "interrupted_command.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        commands.run("interrupted_command", [], tmp_path)
