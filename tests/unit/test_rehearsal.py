"""An archive is loaded and asked as a worker does it before it is written, and one that fails leaves nothing behind."""

import json
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from handlers import golden
from handlers.golden import Golden, GoldenError
from serving import archive
from serving.store import package, rehearsal
from serving.store.model_store import Archive, ArchiveError
from tests.server.bombs import webp_of_one_colour
from tests.unit.archived_run import write_servable
from tests.unit.small_network import CLASSES
from tests.unit.test_classifier import png
from tests.until import until

FP32 = "handler.precision=fp32"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_servable(tmp_path / "runs" / "small")


@pytest.fixture
def handlers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the handlers that archives are built of."""
    copied = tmp_path / "repository" / "handlers"
    shutil.copytree(package.HANDLERS, copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(package, "HANDLERS", copied)
    return copied


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def build(run: Path, *overrides: str, rehearse: bool = True) -> Archive:
    return archive.build("small", "1.0", run=run, store=run.parent / "store", overrides=overrides, rehearse=rehearse)


def refused(run: Path, *overrides: str) -> str:
    """Return why nothing was built, and see that nothing is left."""
    before = set(psutil.Process().children(recursive=True))  # of other tests
    with pytest.raises(ArchiveError) as caught:
        build(run, *overrides)
    assert list((run.parent / "store").iterdir()) == []
    assert set(psutil.Process().children(recursive=True)) <= before
    message = str(caught.value)
    assert message.startswith("small 1.0 cannot be served: ") and "\n" not in message
    return message


def test_what_can_be_served_is_written(run: Path) -> None:
    built = build(run, FP32, "batchSize=2", "handler.top_k=1")
    assert {path.name for path in built.path.parent.iterdir()} == {"small-1.0.mar", "small-1.0.json"}


def test_golden_images_that_take_long_are_answered_too(tmp_path: Path) -> None:
    long = [webp_of_one_colour(side, side) for side in (2500, 2600, 2700)]
    run = write_servable(tmp_path / "runs" / "small", [png(0), long[0], png(1), long[1], png(2), long[2], png(3)])
    assert rehearsal.rehearse(build(run, FP32, "batchSize=2", rehearse=False)).images == 7


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("bf16", 1e-9, 0.02), pytest.param("fp32", 0, 1e-5, marks=pytest.mark.slow)]
)
def test_it_is_rehearsed_in_its_own_precision(run: Path, precision: str, least: float, most: float) -> None:
    rehearsed = rehearsal.rehearse(build(run, f"handler.precision={precision}", rehearse=False))
    assert (rehearsed.precision, rehearsed.images) == (precision, 3)
    assert least <= rehearsed.difference < most and rehearsed.seconds > 0


def test_an_archive_that_must_have_a_gpu_is_not_written_without_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = refused(run, "handler.device=cuda")
    assert "DeviceError: handler.device is cuda, and there is no GPU (the server gave this worker none)" in found


def test_what_imports_more_than_an_archive_holds_is_refused(run: Path, handlers: Path) -> None:
    edit(
        handlers / "service.py",
        "from handlers.settings",
        "from serving.store.model_store import FOLDER\nfrom handlers.settings",
    )
    (handlers / "spare.py").write_text("")  # the repository's own folders are no way to import it either
    assert "ModuleNotFoundError: No module named 'serving'" in refused(run, FP32)


def test_a_wrong_golden_answer_is_refused(run: Path) -> None:
    document = json.loads((run / golden.FILE).read_text())
    document[1]["probabilities"] = [0.2, 0.3, 0.5]
    (run / golden.FILE).write_text(json.dumps(document))
    assert "golden image 1.png is answered otherwise than when the network was exported" in refused(run, FP32)


def test_an_answer_that_only_a_request_gets_wrong_is_refused(run: Path, handlers: Path) -> None:
    edit(
        handlers / "service.py",
        "labels = dict(islice(answer.items(), request.top_k))",
        "labels = dict(zip(answer, reversed(answer.values())))",
    )
    assert "golden image 0.png is answered otherwise" in refused(run, FP32)


def test_a_body_that_is_no_image_must_be_refused_alone(run: Path, handlers: Path) -> None:
    edit(handlers / "errors.py", 'end too early."""\n\n    code = 400\n', 'end too early."""\n\n    code = 415\n')
    assert "a body that is not an image is answered with 415, not 400" in refused(run, FP32)


def test_an_exception_in_a_batch_is_told(run: Path, handlers: Path) -> None:
    edit(
        handlers / "sightline_handler.py",
        "if reply.error is not None:",
        "if reply.error is not None:\n                1 / 0",
    )
    assert "it fails on a batch: ZeroDivisionError: division by zero" in refused(run, FP32)


def test_answers_of_another_version_are_refused(run: Path, handlers: Path) -> None:
    edit(handlers / "sightline_handler.py", 'version=str(model["modelVersion"])', 'version="0.9"')
    assert "its answers name version 0.9" in refused(run, FP32)


def test_a_process_that_ends_is_told_with_its_last_line(run: Path, handlers: Path) -> None:
    ending = "print('out of luck', flush=True); import os; os.kill(os.getpid(), 9)"
    edit(handlers / "sightline_handler.py", "model = context", f"{ending}\n        model = context")
    assert "its process was ended by signal 9: out of luck" in refused(run, FP32)


def test_what_takes_longer_than_its_time_is_ended(run: Path, handlers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = run / "pid"
    wait = subprocess.Popen.wait

    def once_it_hangs(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout is not None:  # a busy machine takes seconds to come this far
            until(lambda: note.is_file() and note.read_text() != "", seconds=30)
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", once_it_hangs)
    slow = f"child = subprocess.Popen(['sleep', '60']); open({str(note)!r}, 'w').write(str(child.pid)); child.wait()"
    (handlers / "__init__.py").write_text(f"import subprocess; {slow}\n")
    assert "it is not ready within 1 s, its startupTimeout" in refused(run, FP32, "startupTimeout=1")
    pid = int(note.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_without_golden_images_nothing_is_proven(run: Path) -> None:
    (run / golden.FILE).unlink()
    assert "it holds no golden images. Export the run again (make train)" in refused(run, FP32)


def test_only_the_labels_that_are_answered_need_be_told() -> None:
    kept = Golden("a.png", b"", (0.7, 0.2, 0.1))
    assert golden.compare(kept, {"ant": 0.7, "bee": 0.2}, CLASSES, "fp32") == 0
    assert golden.compare(kept, {"ant": 0.69, "bee": 0.21}, CLASSES, "bf16") == pytest.approx(0.01)
    for answer in ({"ant": 0.7, "cat": 0.1}, {"bee": 0.2}, {"ant": 0.7002}, {"cat": 0.7, "bee": 0.2}):
        with pytest.raises(GoldenError, match="answered otherwise"):
            golden.compare(kept, answer, CLASSES, "fp32")
    with pytest.raises(GoldenError, match="answered otherwise"):
        golden.compare(kept, {"cat": 0.7, "bee": 0.2}, CLASSES, "bf16")
    for answer in ({}, {"dog": 0.7}, {"ant": float("nan")}, {"ant": -0.5}):
        with pytest.raises(GoldenError, match="what are no probabilities of its classes"):
            golden.compare(kept, answer, CLASSES, "fp32")
    with pytest.raises(GoldenError, match="has 3 classes, the network 2"):
        golden.compare(kept, {"ant": 0.7}, CLASSES[:2], "fp32")
