"""`python -m serving.predict`: the same numbers with a server and without."""

import json
from pathlib import Path

import numpy as np
import pytest

from handlers.classifier import Classifier
from pipeline import agreement
from serving import archive
from tests.server.conftest import RunningServer, export, picture, run_cli
from training.data.records import DatasetError
from training.predictions import Predictions

PREDICT = "serving.predict"


@pytest.fixture(scope="module")
def folder(server: RunningServer) -> Path:
    """Return a folder, in the server's directory, with images, one broken one, and what is none."""
    folder = server.root / "photos"
    (folder / "more").mkdir(parents=True)
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(picture(seed))
    (folder / "more" / "x.PNG").write_bytes(picture(7, image_format="PNG"))
    (folder / "more" / "broken.jpg").write_bytes(picture(8)[:200])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_offline_and_online_answer_the_same(server: RunningServer, folder: Path) -> None:
    online = run_cli(PREDICT, "digits", folder.name, "--json", root=server.root)
    offline = run_cli(PREDICT, "digits", folder.name, "--json", "--offline", root=server.root)
    answers, others = json.loads(online.stdout), json.loads(offline.stdout)
    assert online.returncode == offline.returncode == 1  # for the broken one
    assert list(answers) == list(others) and len(answers) == 5
    for name, answer in answers.items():
        if "broken" in name:
            assert set(answer) == {"error"} and answer == others[name]
        else:
            assert list(answer) == list(others[name])
            assert answer == pytest.approx(others[name], abs=1e-6)


def test_a_table_shows_labels_and_probabilities(server: RunningServer, folder: Path) -> None:
    done = run_cli(PREDICT, "shapes", f"{folder.name}/0.jpg", root=server.root)
    assert done.returncode == 0, done.stderr
    best = server.client.predict(picture(0), "shapes")
    assert best.label in done.stdout and f"{best.probabilities[best.label]:.2%}" in done.stdout


def test_an_archive_in_int8_answers_offline(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    overrides = ["handler.precision=int8"]
    run, store = server.root / "runs" / "shapes", tmp_path / "model_store"
    archive.build("rounded", "1.0", run=run, store=store, overrides=overrides, rehearse=False)
    done = run_cli(PREDICT, "rounded", str(folder / "0.jpg"), "--offline", "--json", root=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    (answer,) = json.loads(done.stdout).values()
    exact = server.client.predict(picture(0), "shapes").probabilities
    assert answer != pytest.approx(exact, abs=1e-5) and answer == pytest.approx(exact, abs=0.15)


def test_a_run_without_an_archive_answers_offline(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(server.root / "runs")
    done = run_cli(PREDICT, "shapes", str(folder / "0.jpg"), "--offline", "--json", root=tmp_path)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout).values()
    assert answer == pytest.approx(
        server.client.predict(picture(0), "shapes").probabilities, abs=0.01
    )  # in what this machine gains from
    missing = run_cli(PREDICT, "shapes", str(folder / "0.jpg"), "--offline", "--version", "7", root=tmp_path)
    assert missing.returncode == 1 and "no archive of shapes 7" in missing.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shapes", "nowhere.jpg"), "nowhere.jpg does not exist"),
        (("shapes", "model_store"), "model_store holds no image"),
        (("nothing", "photos/0.jpg"), "nothing is not served here, only digits, shapes"),
        (("shapes", "photos/0.jpg", "--version", "7"), "shapes 7 is not served here, only shapes 1.0\n"),
        (("nothing", "photos/0.jpg", "--offline"), "no archive of nothing"),
    ],
)
def test_what_cannot_be_asked_says_why(
    server: RunningServer, folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run_cli(PREDICT, *arguments, root=server.root)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and message in done.stderr


def write_evaluation(server: RunningServer, folder: Path, *, wrong: bool) -> None:
    """Write the predictions.npz that evaluation of `digits` on four images would leave."""
    run = server.root / "runs" / "digits"
    (run / "evaluation").mkdir(exist_ok=True)
    images = [picture(seed) for seed in range(4)]
    (folder / "joined.bin").write_bytes(b"xx" + b"".join(images[1:]))
    offsets = np.cumsum([2, len(images[1]), len(images[2])])
    classifier = Classifier(run / "model.pt")
    decoded = [pixels for pixels in classifier.decode(images) if not isinstance(pixels, Exception)]
    probabilities = classifier.predict(decoded).numpy()
    labels = probabilities.argmax(axis=1).astype(np.int64)
    labels[0] = -1
    if wrong:
        probabilities[2] = np.roll(probabilities[2], 1)
    np.savez(
        run / "evaluation" / "predictions.npz",
        probabilities=probabilities, labels=labels, ids=np.array(["a", "b", "c", "d"]), raw=str(folder),
        paths=np.array(["0.jpg", "joined.bin", "joined.bin", "joined.bin"]),
        offsets=np.array([0, *offsets]), lengths=np.array([-1, *(len(image) for image in images[1:])]),
    )  # fmt: skip


def test_served_and_evaluated_answers_are_compared(server: RunningServer, folder: Path) -> None:
    write_evaluation(server, folder, wrong=False)
    done = run_cli("pipeline.agreement", "digits", root=server.root)
    assert done.returncode == 0, done.stderr
    assert "4 of 4 answers in fp32 agree" in done.stdout and "served top-1 100.00%" in done.stdout
    served = json.loads((server.root / "runs" / "digits" / "evaluation" / "served.json").read_text())
    assert served["versions"] == ["2.0"] and served["labelled"] == served["correct"] == 3
    assert served["images"] == served["agree"] == served["same_top1"] == 4 and served["top1"] == 1.0
    assert 0 <= served["largest_difference"] < agreement.TOLERANCE


def test_an_answer_that_differs_is_named(server: RunningServer, folder: Path) -> None:
    write_evaluation(server, folder, wrong=True)
    done = run_cli("pipeline.agreement", "digits", root=server.root)
    assert done.returncode == 1 and "3 of 4 answers in fp32 agree" in done.stdout
    served = json.loads((server.root / "runs" / "digits" / "evaluation" / "served.json").read_text())
    assert served["apart"] == ["c"] and served["largest_difference"] > agreement.TOLERANCE


@pytest.mark.parametrize(
    ("precision", "found", "expected"),
    [
        ("fp32", {"agree": 1000}, True),
        ("fp32", {"agree": 999}, False),
        ("bf16", {"agree": 998, "same_top1": 998}, True),
        ("bf16", {"agree": 997, "same_top1": 997}, False),
        ("int8", {"same_top1": 900, "correct": 895}, True),
        ("int8", {"same_top1": 999, "correct": 894}, False),
        ("int8", {"same_top1": 1000, "correct": 990, "refused": 1}, False),
        ("int8", {"same_top1": 997, "labelled": 0}, False),
        ("bf16", {"same_top1": 1000, "correct": 0}, True),
    ],
)
def test_what_is_allowed_depends_on_the_precision(precision: str, found: dict[str, int], expected: bool) -> None:
    document = {"images": 1000, "refused": 0, "labelled": 1000, "correct": 900, "evaluated_correct": 900} | found
    assert agreement.allowed(document | {"precision": precision}) is expected


def test_an_evaluation_that_is_not_there_is_said(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    done = run_cli("pipeline.agreement", "shapes", root=server.root)
    assert done.returncode == 1 and "make evaluate NAME=shapes" in done.stderr
    write_evaluation(server, folder, wrong=False)
    evaluated = Predictions.load(server.root / "runs" / "digits" / "evaluation" / "predictions.npz")
    (folder / "joined.bin").unlink()
    with pytest.raises(DatasetError, match=r"joined.bin cannot be read any more"):
        list(evaluated.images())


def test_a_class_may_be_called_error(tmp_path: Path) -> None:
    export(tmp_path / "runs" / "odd", ("error", "[red]", "$x_$"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "[dim].jpg").write_bytes(picture(1))
    done = run_cli("serving.predict", "odd", "images", "--offline", "--json", root=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["images/[dim].jpg"]) == {"error", "[red]", "$x_$"}
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    shown = run_cli("serving.predict", "odd", "images", "--offline", root=tmp_path)
    assert (
        shown.returncode == 0
        and "[dim].jpg" in shown.stdout
        and "not images, so not sent: images/notes.txt" in shown.stderr
    )
