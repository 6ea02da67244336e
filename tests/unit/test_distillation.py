"""A student learns from the network of another run, and a teacher that cannot teach it is refused."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from handlers.network import torchscript
from handlers.preprocessing import Preprocess
from handlers.run_folder import RunFolder
from handlers.spec import Spec
from tests.unit.tinted_store import CLASSES, TINY, tinted_store
from training import crossvalidate, export
from training.configuration import ConfigurationError, compose
from training.data.prepare import main as prepare
from training.train import main, train
from training.transfer.distillation import Teacher

REPOSITORY = Path(__file__).resolve().parents[2]
LARGE = ("dataset.image_size=24", "store=large")  # the teacher's images


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a student's store of 16 pixels, and a teacher with one of 24."""
    root = tinted_store(tmp_path_factory.mktemp("distillation"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert prepare([*TINY, *LARGE, "raw=raw", "name=large"]) == 0
        train(compose([*TINY, *LARGE, "name=teacher"]), lambda _: None)
    return root


@pytest.fixture(autouse=True)
def _in_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def student(name: str, *overrides: str) -> tuple[RunFolder, list[str]]:
    lines: list[str] = []
    return RunFolder(train(compose([*TINY, f"name={name}", *overrides]), lines.append)), lines


def write_spec(name: str, spec: Spec) -> None:
    """Write an artifact with nothing but a spec."""
    with zipfile.ZipFile(RunFolder.of(name).model, "w") as file:
        file.writestr("model/extra/spec.json", spec.to_json())


def test_a_student_learns_from_its_teacher_and_again_when_that_changed() -> None:
    plain, _ = student("untaught", "trainer.epochs=1")
    files, _ = student("taught", "teacher=teacher", "trainer.epochs=1")
    record = json.loads(files.training.read_text())["teacher"]
    assert record["run"] == "teacher" and len(record["sha256"]) == 64
    assert json.loads(plain.training.read_text())["teacher"] is None
    assert files.epoch_metrics.read_text() != plain.epoch_metrics.read_text()
    weights = torch.load(files.last_checkpoint, weights_only=True)["state_dict"]
    assert not [name for name in weights if not name.startswith(("network.", "average."))]
    assert export.main(["name=taught"]) == 0  # its key is that of the training
    shutil.copytree("runs/teacher", "runs/moved")
    assert student("taught", "teacher=moved", "trainer.epochs=1")[1] == ["runs/taught is up to date"]
    for path in (plain.model, plain.config):
        shutil.copy(path, "runs/moved")
    files, lines = student("taught", "teacher=moved", "trainer.epochs=1")
    assert any("starting again" in line for line in lines)
    assert json.loads(files.training.read_text())["teacher"]["sha256"] != record["sha256"]


def test_labels_teach_too_unless_the_teacher_has_the_whole_loss() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    logits, images = torch.randn(4, 3), torch.rand(4, 3, 16, 16)
    loss = functional.cross_entropy(logits, labels)
    artifact = torchscript.load("runs/teacher/model.pt")
    larger = functional.interpolate(images, (24, 24), mode="bilinear", antialias=True)
    expected = artifact.module(Preprocess(artifact.spec.preprocess).normalize(larger)).detach()
    for weight, temperature in ((1.0, 1.0), (0.25, 3.0)):
        teacher = Teacher(RunFolder.of("teacher"), CLASSES, weight=weight, temperature=temperature)
        assert torch.allclose(teacher.logits(images), expected, atol=1e-4)
        soft = (expected / temperature).softmax(1)
        divergence = (soft * (soft.log() - (logits / temperature).log_softmax(1))).sum() / 4
        both = (1 - weight) * loss + weight * temperature**2 * divergence
        assert float(teacher.loss(loss, logits, images)) == pytest.approx(float(both), abs=1e-4)


def test_the_teacher_answers_in_the_precision_of_the_student() -> None:
    images = torch.rand(4, 3, 16, 16)
    exact, rounded = (Teacher(RunFolder.of("teacher"), CLASSES, weight=1, temperature=1) for _ in range(2))
    expected = exact.logits(images)
    with torch.autocast("cpu", torch.bfloat16):
        logits = rounded.logits(images)
    assert logits.dtype == torch.float32 and not torch.equal(logits, expected)
    assert torch.equal(logits, logits.bfloat16().float()) and torch.allclose(logits, expected, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("fact", ["fingerprint", "split_format"])
def test_a_teacher_of_data_that_changed_may_have_seen_the_test_images(
    fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("runs/teacher", f"runs/{fact}")
    spec = torchscript.load("runs/teacher/model.pt").spec
    write_spec(fact, dataclasses.replace(spec, provenance={**spec.provenance, fact: "other"}))
    assert main([*TINY, "name=leaked", f"teacher={fact}"]) == 1
    error = capsys.readouterr().err
    assert f"runs/{fact}/model.pt was trained" in error and "rain it again" in error
    assert not Path("runs/leaked").exists()


def test_the_teachers_answers_come_in_the_order_of_the_students_classes() -> None:
    run, images = RunFolder.of("teacher"), torch.rand(2, 3, 24, 24)
    first, second = (
        Teacher(run, classes, weight=1, temperature=1).logits(images) for classes in (CLASSES, CLASSES[::-1])
    )
    assert torch.equal(first, second.flip(1)) and not torch.equal(first, second)


def test_a_killed_student_resumes_as_if_it_had_not_been_killed() -> None:
    whole, _ = student("unbroken", "teacher=teacher", "trainer.epochs=3")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    arguments = [*TINY, "name=broken", "teacher=teacher", "trainer.epochs=3"]
    command = [sys.executable, "-m", "training.train", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("epoch   2/3"))
        process.send_signal(signal.SIGKILL)
    files, lines = student("broken", "teacher=teacher", "trainer.epochs=3")
    assert any("resuming" in line for line in lines) and not any(line.startswith("epoch   2/3") for line in lines)
    assert files.epoch_metrics.read_bytes() == whole.epoch_metrics.read_bytes()


def test_each_fold_learns_from_the_same_fold() -> None:
    settings = [*TINY, "name=cv", "teacher=folded", "split.folds=3"]
    assert [config.teacher for config in crossvalidate.folds(settings)] == ["folded"] * 3
    for fold in (0, 1):
        shutil.copytree("runs/teacher", f"runs/folded/fold-{fold}")
    with pytest.raises(ConfigurationError, match=r"runs/folded/fold-2 is not trained to its end: .* name=folded"):
        crossvalidate.run(crossvalidate.folds(settings))
    shutil.copytree("runs/teacher", "runs/folded/fold-2")
    configs = crossvalidate.folds(settings)
    assert [config.teacher for config in configs] == [f"folded/fold-{fold}" for fold in range(3)]
    assert crossvalidate.folds([*settings, "teacher=null"])[0].teacher is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher=nobody"], "runs/nobody/config.yaml does not exist: train first (make train NAME=nobody"),
        (["teacher=../x"], "cannot name"),
        (["teacher=mistaken"], "teacher=mistaken is the run itself"),
        (["teacher=unfinished"], "runs/unfinished is not trained to its end: make train NAME=unfinished DATASET="),
        (["teacher=damaged"], "runs/damaged/model.pt holds no spec.json"),
        (["teacher=strange"], "teacher=strange has 3 classes and data/processed/tinted has 3; only one of them has"),
        (["teacher=grey"], "teacher=grey takes grey images"),
        (["teacher=teacher", "split.fold=1"], "of the 6 test images here"),
        (["teacher=teacher", "distillation.weight=0"], "distillation.weight is 0"),
        (["teacher=teacher", "distillation.temperature=hot"], "distillation.temperature is 'hot'"),
        (["teacher=teacher", "network=efficientnet_lite0", "transfer.stages=1"], "set transfer.stages=2"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_line(
    overrides: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("unfinished", "damaged", "strange", "grey"):
        files = RunFolder.of(name)
        files.path.mkdir(exist_ok=True)
        files.config.write_text(RunFolder.of("teacher").config.read_text())
        if name != "unfinished":
            files.training.write_text("{}")
    RunFolder.of("damaged").model.write_bytes(b"PK")
    spec = torchscript.load("runs/teacher/model.pt").spec
    colourless = dataclasses.replace(spec.preprocess, colour="grey", mean=(0.5,), std=(0.5,))
    write_spec("strange", dataclasses.replace(spec, classes=("pink", *CLASSES[1:])))
    write_spec("grey", dataclasses.replace(spec, preprocess=colourless))
    base = TINY if "network=efficientnet_lite0" not in overrides else ("dataset=class_folders", "store=tinted")
    assert main([*base, "name=mistaken", *overrides]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not Path("runs/mistaken").exists(), "nothing is written"
