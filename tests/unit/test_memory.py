"""A device without memory is told from all else, however torch says it, and answered in parts or on the CPU."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import service
from handlers.classifier import Classifier
from handlers.device import DeviceError, out_of_memory_errors
from handlers.errors import ArtifactError
from handlers.golden import GoldenError
from handlers.network import precision, torchscript
from handlers.service import Service
from handlers.settings import Settings
from tests.unit.small_network import save_small
from tests.unit.test_classifier import png

FULL = "CUDA out of memory. Tried to allocate 20.00 MiB"
INTERPRETER = (
    f"The following operation failed in the TorchScript interpreter.\nTraceback:\n    x\nRuntimeError: {FULL}\n"
)


class Narrow(torch.nn.Module):
    """A network that asks for more memory than there is, of more than three images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[0] > 3:
            return torch.zeros([1 << 50])
        return images.flatten(1)[:, :3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_small(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (FULL, FULL),
        (INTERPRETER, f"RuntimeError: {FULL}"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling x", "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when"),
    ],
)
def test_each_way_to_say_it_is_one(text: str, line: str) -> None:
    with pytest.raises(torch.OutOfMemoryError) as raised, out_of_memory_errors():
        raise RuntimeError(text)
    assert str(raised.value).startswith(line) and "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), ValueError(FULL)])
def test_another_error_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, out_of_memory_errors():
        raise error
    assert raised.value is error and not isinstance(error, torch.OutOfMemoryError)


def test_what_the_interpreter_has_no_memory_for_goes_in_parts(path: Path) -> None:
    classifier = Classifier(path)
    with torchscript.quiet():
        classifier.engine.module = torch.jit.script(Narrow())
    with pytest.raises(RuntimeError, match="TorchScript interpreter") as raised:
        classifier.engine.module(torch.zeros(4, 3, 16, 16))
    assert not isinstance(raised.value, torch.OutOfMemoryError)
    with pytest.raises(torch.OutOfMemoryError):  # from which a worker that loads falls back to the CPU
        classifier.engine.warm_up(8)
    assert all(isinstance(answer, dict) for answer in classifier.classify([png(seed) for seed in range(5)]))


def test_weights_that_find_no_memory_are_no_damaged_artifact(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.jit, "load", fail)
    error = FULL
    with pytest.raises(torch.OutOfMemoryError):
        torchscript.load(path)
    error = "PytorchStreamReader failed"
    with pytest.raises(ArtifactError, match="is damaged"):
        torchscript.load(path)


def test_a_full_gpu_leaves_a_worker_on_the_cpu(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[tuple[str, str]] = []

    def full(weights: Path, *, device: torch.device, precision: str, **options: Any) -> Classifier:
        tried.append((str(device), precision))
        if device.type == "cuda":
            raise torch.OutOfMemoryError(FULL)
        return Classifier(weights, device=device, precision=precision, **options)

    monkeypatch.setattr(service, "choose_device", lambda *_, **__: torch.device("cuda:0"))
    monkeypatch.setattr(service, "Classifier", full)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    on_cpu = ("cpu", precision.by_speed(torch.device("cpu"))[0])
    for setting in ("auto", "fp16"):
        caplog.clear()
        tried.clear()
        served = Service(path, {"handler": {"precision": setting}}, version="1.0", device="cuda:0")
        assert served.classifier.device.type == "cpu"
        assert tried == [("cuda:0", "fp16"), on_cpu], "a slower precision of the GPU needs no less memory"
        assert f"GPU out of memory, serving on the CPU: {FULL}" in caplog.text
    settings = dataclasses.asdict(Settings(device="cuda"))
    with pytest.raises(DeviceError, match=r"GPU out of memory for this model .*: serve fewer workers of it"):
        Service(path, {"handler": settings}, version="1.0", device="cuda:0")


def test_a_gpu_that_answers_wrongly_is_not_hidden_by_the_cpu(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "choose_device", lambda *_, **__: torch.device("cuda:0"))
    monkeypatch.setattr(service, "Classifier", lambda _, device, **__: device.type)
    tried: list[str] = []

    def wrong(device: str, *_: Any) -> None:
        tried.append(device)
        raise GoldenError("golden image 0.png")

    monkeypatch.setattr(service, "_proven", wrong)
    with pytest.raises(GoldenError):
        Service(path, {"handler": {"precision": "bf16"}}, version="1.0", device="cuda:0")
    assert tried == ["cuda"]


@pytest.mark.parametrize(
    ("setting", "device", "only", "order"),
    [
        ("auto", "cuda:0", False, ["cuda:0 fp16", "cuda:0 bf16", "cuda:0 fp32", "cpu bf16", "cpu fp32"]),
        ("auto", "cuda:0", True, ["cuda:0 fp16", "cuda:0 bf16", "cuda:0 fp32"]),
        ("auto", "cpu", False, ["cpu bf16", "cpu fp32"]),
        ("fp16", "cuda:0", False, ["cuda:0 fp16", "cpu bf16", "cpu fp32"]),
        ("fp16", "cpu", False, ["cpu bf16", "cpu fp32"]),
        ("fp16", "cpu", True, ["cpu fp16"]),
        ("fp32", "cuda:0", False, ["cuda:0 fp32", "cpu fp32"]),
        ("int8", "cpu", False, ["cpu int8"]),
    ],
)
def test_devices_and_precisions_are_tried_in_order(
    monkeypatch: pytest.MonkeyPatch, setting: str, device: str, only: bool, order: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(precision, "gains_from_bf16", lambda _: True)
    found = precision.candidates(setting, torch.device(device), only=only)
    assert [f"{target} {name}" for target, name in found] == order


def test_an_archive_in_fp16_is_served_without_a_gpu_too(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Service(path, {"handler": {"precision": "fp16"}}, version="1.0")
    assert served.classifier.engine.precision in precision.by_speed(torch.device("cpu"))
    assert "fp16 needs a GPU: using precision=auto" in caplog.text
    caplog.clear()
    with pytest.raises(ValueError, match="runs on a GPU only"):
        Service(path, {"handler": {"precision": "fp16", "device": "cpu"}}, version="1.0")
    assert not caplog.text
