"""Replay without a server: which logged images are sent, the report on both answers, and the refusals."""

import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from handlers.observation import segments
from serving.client import Prediction, ServerFailed
from serving.rollout import replay
from serving.rollout.replay import Replay
from serving.rollout.trial import Candidate, TrialError

NAME = "birds"


def write_log(root: Path, rows: Sequence[tuple[str, bytes, str]], *, with_images: bool = True) -> Path:
    """Log answers, each a version, an image and a label; the request's id is the number of the row."""
    folder = root / "logs" / "predictions" / NAME
    segment = folder / f"00000001{segments.SUFFIX}"
    segments.images_of(segment).mkdir(parents=True)
    with open(segment, "w") as file:
        for number, (version, image, label) in enumerate(rows):
            sha256 = hashlib.sha256(image).hexdigest()
            row = {"request_id": f"r{number}", "image": 0, "sha256": sha256, "model": NAME, "version": version}
            file.write(json.dumps(row | {"label": label, "confidence": 0.9}) + "\n")
            if with_images:
                (segments.images_of(segment) / sha256).write_bytes(image)
    return folder


class Answering:
    """Answers by the bytes of the image; an empty label is a failure."""

    def __init__(self, answers: Mapping[bytes, str]) -> None:
        self.answers = answers

    def predict(self, image: bytes, model: str, version: str, *, deadline: float, counted: bool) -> Prediction:
        assert (model, counted) == (NAME, False) and deadline
        if not self.answers[image]:
            raise ServerFailed(500, "no", "NoAnswer")
        return Prediction({self.answers[image]: 0.8, "other": 0.2}, version)


@pytest.fixture
def candidate(tmp_path: Path) -> tuple[Callable[[Mapping[bytes, str]], Candidate], list[str]]:
    """Return a function that gives a candidate with these answers, and the lines that it logs."""
    said: list[str] = []

    def of(answers: Mapping[bytes, str]) -> Candidate:
        client: object = Answering(answers)
        classes = frozenset({"wren", "robin"})
        return Candidate(tmp_path, client, NAME, "2.0", None, classes, 3.0, 0.05, said.append)  # type: ignore[arg-type]

    return of, said


Given = tuple[Callable[[Mapping[bytes, str]], Candidate], list[str]]


def test_the_newest_answer_of_the_live_version_to_each_image_counts(tmp_path: Path) -> None:
    images = [b"a", b"b", b"a", b"c", b"b"]
    versions = ["1.0", "1.0", "1.0", "0.9", "1.0"]
    labels = ["wren", "wren", "robin", "wren", "robin"]
    folder = write_log(tmp_path, list(zip(versions, images, labels, strict=True)))
    rows = replay.logged(folder, NAME, "1.0", 10)
    assert [(row.request_id, row.answer.label, row.path.read_bytes()) for row in rows] == [
        ("r4", "robin", b"b"),
        ("r2", "robin", b"a"),
    ]
    assert [row.request_id for row in replay.logged(folder, NAME, "1.0", 1)] == ["r4"]
    assert [row.request_id for row in replay.logged(folder, NAME, "0.9", 10)] == ["r3"]
    assert len(replay.logged(folder, NAME, None, 10)) == 3


def test_agreement_and_differences_are_shown_with_labels_and_a_table(tmp_path: Path, candidate: Given) -> None:
    of, said = candidate
    images = [bytes([65 + number]) for number in range(20)]
    folder = write_log(tmp_path, [("1.0", image, "wren") for image in images])
    labels = [
        {"request_id": f"r{number}", "image": 0, "sha256": hashlib.sha256(image).hexdigest(), "label": label}
        for number, (image, label) in enumerate(zip(images[:3], ("robin", "wren", "unknown"), strict=True))
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labels))
    answers = dict.fromkeys(images, "wren") | {images[0]: "robin"}
    Replay(agreement=0.9).run(of(answers))
    assert said[0].startswith("  20 images: agreement 95.0% (76.4% to 99.1%), differs by 5.0%")
    assert "  mean confidence 0.900 -> 0.800 (-0.100)" in said
    (labelled,) = [line for line in said if "labelled" in line]
    assert "2 labelled images: right 50.0%" in labelled and "0 lost, 1 gained, McNemar p = 1" in labelled
    assert "    wren now robin: 1" in said and "    such as r0" in said
    with open(tmp_path / "logs" / "trials" / f"{NAME}-2.0-replay.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["live_label"], row["new_label"], row["label"]) for row in rows if row["request_id"] == "r0"] == [
        ("wren", "robin", "robin")
    ]
    assert len(rows) == 20 and {row["error"] for row in rows} == {""}
    with pytest.raises(TrialError, match=r"agreement 95\.0% .* is below 96\.0%: see logs/trials/.*AGREEMENT=0\.95"):
        Replay(agreement=0.96).run(of(answers))


def test_images_without_an_answer_end_it_early(tmp_path: Path, candidate: Given) -> None:
    of, said = candidate
    images = [b"%03d" % number for number in range(300)]
    write_log(tmp_path, [("1.0", image, "wren") for image in images])
    with pytest.raises(TrialError, match=r"it does not answer 16 of 16 images \(NoAnswer\)"):
        Replay().run(of(dict.fromkeys(images, "")))
    assert "    not answered, NoAnswer: 16" in said


def test_a_slower_version_is_refused(tmp_path: Path, candidate: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    of, _ = candidate
    write_log(tmp_path, [("1.0", b"a", "wren")] * 2)
    seconds = iter([0.0, 1.0, 1.0, 1.1])  # new, then live
    monkeypatch.setattr("serving.rollout.trial.time.perf_counter", lambda: next(seconds))
    slow = dataclasses.replace(of({b"a": "wren"}), live="1.0")
    with pytest.raises(TrialError, match="too slow: 1000 ms per image, the live version 100 ms"):
        Replay().run(slow)


def test_a_log_without_images_or_rows_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrialError, match=f"has no predictions of {NAME}: build the live version with"):
        Replay().check(tmp_path, NAME, "1.0")
    write_log(tmp_path, [("1.0", b"a", "wren")], with_images=False)
    with pytest.raises(TrialError, match=f"has no images of {NAME}: build"):
        Replay().check(tmp_path, NAME, "1.0")
    with pytest.raises(TrialError, match="elsewhere has no predictions of"):
        Replay("elsewhere").check(tmp_path, NAME, "1.0")
