import contextlib
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers import artifact, precision
from handlers.classifier import Classifier
from handlers.engine import Engine
from handlers.errors import BadImage
from tests.unit.small_network import save_small
from tests.unit.test_classifier import png

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("artifact") / "model.pt")


def engine_of(path: Path, device: torch.device = CPU, precision: str = "fp32") -> Engine:
    return Engine(artifact.load(path, device).module, (3, 16, 16), device, precision)


def ask(engine: Engine, batch: torch.Tensor) -> torch.Tensor:
    inputs = engine.inputs(len(batch))
    inputs[: len(batch)] = batch
    return engine(inputs)[: len(batch)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 15, 16])
def test_a_batch_that_is_filled_up_is_answered_as_it_is(path: Path, count: int, device: torch.device) -> None:
    engine = engine_of(path, device)
    plain = artifact.load(path).module
    batch = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    for _ in range(4):  # profiled, then fused
        inputs = engine.inputs(count)
        assert len(inputs) in engine.sizes and not inputs[count:].any()
        logits = ask(engine, batch)
        assert logits.dtype == torch.float32 and not logits.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(logits, plain(batch), rtol=1e-4, atol=1e-4)


def test_layers_are_fused_on_a_cpu_alone(path: Path) -> None:
    for device, fused in ((torch.device("cuda"), False), (CPU, True)):
        module = artifact.fused(artifact.load(path).module, device)
        assert torch.jit.onednn_fusion_enabled() is fused  # type: ignore[no-untyped-call]  # it refuses GPU tensors
        with torch.inference_mode():
            for _ in range(4):
                module(torch.zeros(2, 3, 16, 16))
        graph = str(torch.jit.last_executed_optimized_graph())  # type: ignore[attr-defined]
        assert ("oneDNNFusionGroup" in graph) is fused and "batch_norm" not in graph


def test_more_images_than_the_largest_batch_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="17 images, may have at most 16"):
        engine_of(path).inputs(17)


def test_bf16_is_close_to_float32(path: Path) -> None:
    exact, rounded = (engine_of(path, precision=each) for each in ("fp32", "bf16"))
    batch = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        expected, logits = ask(exact, batch), ask(rounded, batch)
        assert logits.dtype == torch.float32
        difference = (logits - expected).abs().max() / expected.abs().max()
        assert 0 < difference < 0.02


def test_warming_up_ends_with_the_size_that_holds_the_largest_batch(path: Path) -> None:
    engine = engine_of(path)
    seen: list[int] = []
    module, engine.module = engine.module, lambda batch: (seen.append(len(batch)), module(batch))[1]  # type: ignore[assignment,func-returns-value]
    engine.warm_up(5)
    assert sorted(set(seen)) == [1, 2, 4, 8]
    engine.warm_up(1000)
    assert sorted(set(seen)) == list(engine.sizes)


@pytest.mark.parametrize(
    ("wanted", "capabilities", "expected"),
    [
        ("auto", {"avx512_bf16": True}, "bf16"),
        ("auto", {"amx_bf16": True}, "bf16"),
        ("auto", {"avx512_f": True}, "fp32"),
        ("fp32", {"amx_bf16": True}, "fp32"),
        ("bf16", {}, "bf16"),
    ],
)
def test_auto_looks_at_the_machine(
    wanted: str, capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert precision.choose(wanted, CPU) == expected


def test_an_unknown_precision_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="precision is 'fp64', must be one of auto, fp32, bf16, int8"):
        Classifier(path, precision="fp64")


def test_the_largest_images_are_decoded_one_after_the_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = 0, 0
    together = threading.Barrier(4)

    def watched(data: bytes, **_: Any) -> torch.Tensor:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        with contextlib.suppress(threading.BrokenBarrierError):  # one at a time: they never meet
            together.wait(timeout=0.1)
        at_once -= 1
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    monkeypatch.setattr("handlers.classifier.decode", watched)
    before = torch.get_num_threads()
    try:
        classifier = Classifier(path, threads=4)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    file = io.BytesIO()
    Image.new("L", (4200, 4200)).save(file, "PNG")
    for images, expected in (([png(0)] * 40, 4), ([file.getvalue()] * 4, 1)):
        most = 0
        together.reset()
        classifier.decode(images)
        assert most == expected


def test_threads_keep_images_and_errors_in_order(path: Path) -> None:
    before = torch.get_num_threads()
    try:
        many, one = Classifier(path, threads=4), Classifier(path)
    finally:
        torch.set_num_threads(before)
    images = [png(seed, (10 + seed, 300 - seed)) for seed in range(40)]
    images[7] = b"no image"
    for ours, theirs in zip(many.decode(images), one.decode(images), strict=True):
        if isinstance(theirs, torch.Tensor):
            assert isinstance(ours, torch.Tensor) and np.array_equal(ours, theirs)
        else:
            assert isinstance(ours, BadImage) and isinstance(theirs, BadImage)
