"""Where a request's time goes: stages add up to the request, and clocks that do not fit are refused."""

import importlib
import json
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import profile
from benchmarks.harness import profiled_handler, stages
from benchmarks.harness.stages import Sent
from handlers.images.decoding import decode
from handlers.network.engine import Engine
from serving import archive
from tests.unit.small_network import CLASSES, save_small
from tests.unit.test_classifier import png

SPENT = {"decode and resize": 0.004, "decode": 0.003, "resize": 0.001, "normalize": 0.001, "network": 0.01}


def batch(*ids: int, at: float = 100.0, **changed: Any) -> dict[str, Any]:
    """A batch that came 2 ms after `at`, was handled from 3 to 20 ms after it, and sent at 21 ms."""
    times = {"first": at + 0.002, "began": at + 0.003, "ended": at + 0.020, "sent": at + 0.021}
    return {"ids": [str(each) for each in ids], **times, "stages": {**SPENT, "answer": 0.0005}, **changed}


def test_the_stages_add_up_to_the_request() -> None:
    means = stages.means([Sent(1, 100.0, 100.025), Sent(2, 99.99, 100.025)], [batch(1, 2)], waited=0.006)
    assert list(means) == list(stages.STAGES)
    assert sum(means.values()) == pytest.approx((0.025 + 0.035) / 2)
    assert means[stages.QUEUE] == pytest.approx(0.003)
    assert means["front end, before"] == pytest.approx((0.002 + 0.012) / 2 - 0.003)
    assert means["decode"] == pytest.approx(0.003) and means["network"] == pytest.approx(0.01)
    assert means[stages.REST] == pytest.approx(0.017 - 0.0155)
    assert means["front end, after"] == pytest.approx(0.004)


def test_decoding_side_by_side_counts_the_time_that_passed() -> None:
    spent = {**SPENT, "answer": 0.0, "decode": 0.006, "resize": 0.002}
    means = stages.means([Sent(1, 100.0, 100.025)], [batch(1, stages=spent)], waited=0.0)
    assert means["decode"] == pytest.approx(0.003) and means["resize"] == pytest.approx(0.001)


def test_times_that_do_not_fit_are_refused() -> None:
    request = Sent(1, 100.0, 100.025)
    with pytest.raises(stages.ProfileError, match="1 of 1 requests are in no batch"):
        stages.means([request], [batch(2)], waited=0.0)
    with pytest.raises(stages.ProfileError, match="front end, before took -"):
        stages.means([request], [batch(1)], waited=0.01)
    with pytest.raises(stages.ProfileError, match="socket, to the worker took -"):
        stages.means([request], [batch(1, first=100.01)], waited=0.0)


def test_a_row_counts_batches_and_requests() -> None:
    requests = [Sent(number, 100.0, 100.025) for number in range(1, 4)]
    row = profile.row(64, requests, [batch(1, 2), batch(3), batch(9)], 0.0, 0.5)
    assert row["images_per_batch"] == 1.5 and row["requests_per_second"] == 6.0
    assert sum(row["stages"].values()) == pytest.approx(row["milliseconds"]) == pytest.approx(25.0)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    row = profile.row(1, [Sent(1, 100.0, 100.025)], [batch(1)], 0.0, 1.0)
    profile.draw([row, {**row, "connections": 64}], tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_the_archive_gets_the_handler_with_clocks(tmp_path: Path) -> None:
    (tmp_path / "runs" / "small").mkdir(parents=True)
    save_small(tmp_path / "runs" / "small" / "model.pt")
    built = archive.build("small", "1.0", runs=tmp_path / "runs", store=tmp_path / "store", rehearse=False)
    before = set(zipfile.ZipFile(built.path).namelist())
    profile.profiled(built)
    built.check()
    with zipfile.ZipFile(built.path) as made:
        assert set(made.namelist()) == {*before, "profiled_handler.py"}
        assert json.loads(made.read("MAR-INF/MANIFEST.json"))["model"]["handler"] == "profiled_handler.py"
    assert [path.name for path in built.path.parent.iterdir() if path.suffix == ".original"] == []


def test_the_profiled_handler_answers_and_writes_its_stages_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_small(tmp_path / "model.pt")
    monkeypatch.setenv(profiled_handler.FOLDER_VARIABLE, str(tmp_path))
    # What the handler wraps is put back when the test ends.
    monkeypatch.setattr(Engine, "__call__", Engine.__call__)
    monkeypatch.setattr("handlers.images.decoder.decode", decode)
    worker = sys.modules["__main__"]
    monkeypatch.setattr(worker, "retrieve_msg", lambda connection: None, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # TorchServe leaves its version.txt open
        importlib.import_module("ts.protocol.otf_message_handler")
    monkeypatch.setattr("ts.protocol.otf_message_handler._retrieve_buffer", lambda connection, length: b"")
    context = SimpleNamespace(
        model_yaml_config={"handler": {"precision": "fp32"}},
        manifest={"model": {"modelVersion": "1.0", "serializedFile": "model.pt"}},
        system_properties={"model_dir": str(tmp_path)},
        get_all_request_header=lambda index: {profiled_handler.HEADER: "7"},
        set_response_header=lambda *_: None,
    )
    handler = profiled_handler.ProfiledHandler()
    threads = torch.get_num_threads()
    try:
        handler.initialize(context)
        (answer,) = handler.handle([{"body": png(0)}], context)
    finally:
        torch.set_num_threads(threads)
    assert set(json.loads(answer)) == set(CLASSES)
    vars(worker)["retrieve_msg"](None)  # as the worker does when the answer is sent
    (file,) = tmp_path.glob("*.jsonl")
    (batch,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert batch["ids"] == ["7"] and batch["began"] <= batch["ended"] <= batch["sent"]
    assert set(batch["stages"]) == {"decode and resize", "decode", "resize", "normalize", "network", "answer"}
    handler._file.close()
