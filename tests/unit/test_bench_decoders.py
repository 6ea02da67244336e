"""The comparison of decoders: differences are seen, and the best is one whose pixels are right."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import decoders
from benchmarks.interleave import one_core, take_turns

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities of TorchVision")


@pytest.fixture(scope="module")
def small() -> list[bytes]:
    return decoders.pictures("200 x 200", "JPEG")[:2]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_decoder_that_is_there_reads_every_format(kind: str) -> None:
    bodies = decoders.pictures("200 x 200", kind)[:1]
    rows = decoders.compare(kind, "200 x 200", bodies, rounds=2, device="cpu")
    there = {row["decoder"] for row in rows}
    left_out = {*decoders.missing(), *(decoders.JPEG_ONLY if kind != "JPEG" else ())}
    assert there == set(decoders.DECODERS) - left_out and {"sightline", "Pillow", "torchvision"} <= there
    for row in rows:
        assert len(row["rounds"]) == 2 and 0 < row["range"][0] <= row["milliseconds"] <= row["range"][1]
        assert row["bytes"] == len(bodies[0]) and row["format"] == kind
        # Nothing shrinks at 200 x 200: all of them draw nearly the same picture.
        assert row["largest_difference"] <= 40 and row["mean_difference"] < 1
    assert {row["decoder"]: row["largest_difference"] for row in rows}["sightline"] == 0


def test_wrong_pixels_are_seen_and_are_never_the_best(small: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    def upside_down(data: bytes) -> torch.Tensor:
        return decoders.simplejpeg_full(data).flip(1)

    monkeypatch.setattr(decoders, "DECODERS", {"wrong": upside_down, "right": decoders.simplejpeg_full})
    rows = decoders.compare("JPEG", "200 x 200", small, rounds=1, device="cpu")
    wrong, right = rows
    assert wrong["largest_difference"] > 40 and wrong["mean_difference"] > 1
    assert right["largest_difference"] == 0 and right["mean_difference"] == 0
    wrong["milliseconds"] = 0.5 * right["milliseconds"]
    assert decoders.best(rows) == {"JPEG 200 x 200": "right"}


def test_the_best_is_the_fastest_of_each_format_and_size() -> None:
    def row(kind: str, decoder: str, milliseconds: float, difference: int = 0) -> dict[str, Any]:
        return {
            "format": kind,
            "size": "1 x 1",
            "decoder": decoder,
            "milliseconds": milliseconds,
            "largest_difference": difference,
        }

    rows = [row("JPEG", "a", 2), row("JPEG", "b", 1), row("JPEG", "c", 0.5, 11), row("PNG", "a", 3), row("PNG", "b", 4)]
    assert decoders.best(rows) == {"JPEG 1 x 1": "b", "PNG 1 x 1": "a"}


def test_what_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decoders.NEEDS, "kornia-rs", ("no_such_module", "kornia-rs"))
    assert decoders.missing()["kornia-rs"] == "not installed: uv pip install kornia-rs"
    body = decoders.pictures("200 x 200", "PNG")[:1]
    there = {row["decoder"] for row in decoders.compare("PNG", "200 x 200", body, rounds=1, device="cpu")}
    assert "kornia-rs" not in there and "sightline" in there


def test_works_take_turns_in_another_order_each_round() -> None:
    called: list[str] = []
    taken = take_turns({name: lambda name=name: called.append(name) for name in "abc"}, 3, 0.0)  # type: ignore[misc]
    assert called[6:] == [*"abc", *"bca", *"cab"]
    assert {name: len(seconds) for name, seconds in taken.items()} == {"a": 3, "b": 3, "c": 3}


def test_one_core_is_given_back() -> None:
    before = os.sched_getaffinity(0), torch.get_num_threads()
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1 and torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before


def test_the_command_line_ends_in_one_document(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decoders, "RESULT", tmp_path / "decoders.json")
    monkeypatch.setattr(decoders, "TURN", 0.0)
    monkeypatch.setattr(decoders, "SIZES", {"200 x 200": (200, 200, 5.0, 1)})
    assert decoders.main(["--rounds", "1"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document == json.loads((tmp_path / "decoders.json").read_text())
    assert set(document["best"]) == {"JPEG 200 x 200", "PNG 200 x 200", "WEBP 200 x 200"}
    assert document["machine"]["cores_used"] == 1 and document["versions"]["simplejpeg"]


def test_a_gpu_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert decoders.main(["--device", "cuda"]) == 1
    assert capsys.readouterr().err == "error: --device cuda needs a GPU, and torch finds none here\n"
