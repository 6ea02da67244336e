"""Which device a worker takes, and what it does when that is gone."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import device, service
from handlers.device import DeviceError, fault_of
from handlers.sightline_handler import ImageHandler
from tests.unit.small_network import save_small

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"unclosed file .*version\.txt")  # the package leaves it open
    import ts  # noqa: F401 - the handler imports it


@pytest.mark.parametrize(
    ("wanted", "given", "there", "fault", "gpu_capable", "expected"),
    [
        ("auto", "cpu", False, None, True, "cpu"),
        ("auto", "cuda:1", True, None, True, "cuda:1"),
        ("auto", "cuda:1", True, None, False, "cpu"),
        ("auto", "cuda:0", False, None, True, "cpu"),
        ("auto", "cuda:0", True, "CUDA error: unspecified launch failure", True, "cpu"),
        ("cpu", "cuda:0", True, None, True, "cpu"),
        ("cuda", "cuda:0", True, None, True, "cuda:0"),
    ],
)
def test_a_worker_computes_on(
    wanted: str, given: str, there: bool, fault: str | None, gpu_capable: bool, expected: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(device, "fault_of", lambda _: fault)
    assert device.choose_device(wanted, given, gpu_capable=gpu_capable) == torch.device(expected)
    fell_back = wanted == "auto" and gpu_capable and given != expected
    assert ("serving on the CPU" in caplog.text) is fell_back


@pytest.mark.parametrize(
    ("given", "there", "fault", "why"),
    [
        ("cpu", True, None, "the server gave this worker none"),
        ("cuda:0", False, None, "torch finds none"),
        ("cuda:0", True, "CUDA error: no such device", "CUDA error: no such device"),
    ],
)
def test_a_gpu_that_must_be_there_and_is_not_is_said(
    given: str, there: bool, fault: str | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(device, "fault_of", lambda _: fault)
    with pytest.raises(DeviceError, match=rf"there is no GPU \({why}\): set it to auto, or mend the GPU"):
        device.choose_device("cuda", given)


def test_a_device_that_computes_has_no_fault(device: torch.device) -> None:
    assert fault_of(device) is None


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), None),
        (RuntimeError("CUDA error: lost\nCompile"), "CUDA error: lost"),
    ],
)
def test_a_device_that_fails_has_one(error: RuntimeError, fault: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(torch, "ones", failing)
    assert device.fault_of(torch.device("cpu")) == fault


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.mark.parametrize("lost", [True, False])
def test_a_worker_whose_gpu_is_lost_ends(
    lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def end(status: int) -> None:
        raise Ended(status)

    handler = ImageHandler()
    handler.initialize(context(save_small(tmp_path / "model.pt")))
    monkeypatch.setattr(handler.service, "answer", lambda _: (_ for _ in ()).throw(RuntimeError("CUDA error")))
    monkeypatch.setattr("handlers.sightline_handler.fault_of", lambda _: "CUDA error: lost" if lost else None)
    monkeypatch.setattr("os._exit", end)
    with caplog.at_level(logging.CRITICAL), pytest.raises(Ended if lost else RuntimeError):
        handler.handle([], None)
    assert ("GPU lost (CUDA error: lost): exiting" in caplog.text) is lost


def test_the_gpu_that_the_server_gave_is_the_one_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[str] = []

    def choose_device(_: str, given: str, **__: Any) -> torch.device:
        wanted.append(given)
        return torch.device("cpu")

    monkeypatch.setattr(service, "choose_device", choose_device)
    for gpu in (None, 0, 3):
        ImageHandler().initialize(context(save_small(tmp_path / "model.pt"), gpu))
    assert wanted == ["cpu", "cuda:0", "cuda:3"]


def context(weights: Path, gpu: int | None = None) -> Any:
    """Return what TorchServe tells a worker, as far as it is looked at."""

    class Context:
        manifest = {"model": {"modelName": "shapes", "serializedFile": weights.name, "modelVersion": "1.0"}}
        system_properties = {"model_dir": str(weights.parent), "gpu_id": gpu}
        model_yaml_config: dict[str, Any] = {}

    return Context()
