from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from handlers.classifier import Classifier
from handlers.errors import BadImage
from handlers.network import precision, torchscript
from handlers.network.engine import Engine, optimized
from tests.unit.small_network import save_small
from tests.unit.test_classifier import png
from training.precision import choose_bf16

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("artifact") / "model.pt")


def engine_of(path: Path, device: torch.device = CPU, precision: str = "fp32") -> Engine:
    return Engine(optimized(torchscript.load(path, device).module, device, precision), (3, 16, 16), device, precision)


def ask(engine: Engine, batch: torch.Tensor) -> torch.Tensor:
    inputs = engine.buffer(len(batch))
    inputs[: len(batch)] = batch
    return engine(inputs)[: len(batch)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 15, 16])
def test_a_batch_that_is_filled_up_is_answered_as_it_is(path: Path, count: int, device: torch.device) -> None:
    engine = engine_of(path, device)
    engine.warm_up(16)  # on a GPU: recorded
    plain = torchscript.load(path).module
    batch = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    for _ in range(4):  # profiled, then fused
        inputs = engine.buffer(count)
        assert len(inputs) in engine.sizes and not inputs[count:].any()
        logits = ask(engine, batch)
        assert logits.dtype == torch.float32 and not logits.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(logits, plain(batch), rtol=1e-4, atol=1e-4)


def test_batches_of_all_sizes_take_turns(path: Path, device: torch.device) -> None:
    plain, engine = torchscript.load(path).module, engine_of(path, device)
    engine.warm_up(16)  # on a GPU: recorded, all in one memory
    for count in (16, 3, 1, 16, 8, 2, 4, 16, 1):
        batch = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            torch.testing.assert_close(ask(engine, batch), plain(batch), rtol=1e-4, atol=1e-4)


class Replayed:
    """In place of a CUDA graph: runs the module anew."""

    replays = 0

    def __init__(self, module: Any, inputs: torch.Tensor, pool: Any) -> None:
        self.module, self.inputs, self.pool = module, inputs, pool

    def replay(self) -> Any:
        Replayed.replays += 1
        return self.module(self.inputs)


def test_a_recorded_size_is_replayed_in_the_room_that_it_was_recorded_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.network.graphs.Graph", Replayed)
    plain, engine = engine_of(path), engine_of(path)
    engine._pool = shared = Mock()
    engine.warm_up(16)
    assert list(engine._graphs) == [16, 8, 4, 2, 1], "the memory of the largest holds what the others need"
    assert {graph.pool for graph in engine._graphs.values()} == {shared}  # type: ignore[attr-defined]
    before = Replayed.replays
    for count in (16, 3, 5, 16, 1):
        batch = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
        pool = engine.buffer(count)
        assert pool is engine.buffer(count) and not pool[count:].any()
        torch.testing.assert_close(ask(engine, batch), ask(plain, batch), rtol=1e-4, atol=1e-4)
    assert Replayed.replays == before + 5
    engine(torch.zeros(4, 3, 16, 16))  # in a pool of its own
    assert Replayed.replays == before + 5


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("operation not permitted\nCompile with"),
            ["CUDA graph capture failed for batch size 4, running without graphs: operation not permitted"],
        ),
        (
            RuntimeError("CUDA out of memory. Tried to"),  # as TorchScript says it
            [
                f"CUDA graph capture failed for batch size {size}, running it without a graph: "
                "CUDA out of memory. Tried to"
                for size in (4, 2)
            ],
        ),
    ],
)
def test_a_size_that_cannot_be_recorded_runs_without(
    path: Path, error: RuntimeError, said: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(module: Any, inputs: torch.Tensor, pool: Any) -> Replayed:
        if len(inputs) > 1:
            raise error
        return Replayed(module, inputs, pool)

    monkeypatch.setattr("handlers.network.graphs.Graph", refused)
    engine = engine_of(path)
    engine._pool = Mock()
    engine.warm_up(4)
    assert caplog.messages == said
    assert list(engine._graphs) == ([1] if len(said) > 1 else [])
    assert len(engine(engine.buffer(3).zero_())) == 4


def test_switches_that_tracing_made_constants_are_set(path: Path) -> None:
    engine = engine_of(path)
    module: Any = engine.module
    batch = torch.randn(4, 3, 16, 16)
    expected = engine_of(path).module(batch)
    for exact in (True, False):
        torchscript.tune_convolutions(module, exact=exact)
        nodes = module.graph.findAllNodes("aten::_convolution", recurse=True)
        assert nodes
        for node in nodes:
            given = dict(zip(torchscript.CONVOLUTION, [each.toIValue() for each in node.inputs()], strict=True))
            assert given["benchmark"] is True and given["allow_tf32"] is not exact
            assert given["cudnn_enabled"] is True and given["deterministic"] is False
    torch.testing.assert_close(module(batch), expected, rtol=1e-4, atol=1e-4)


def test_layers_are_fused_on_a_cpu_alone(path: Path) -> None:
    for device, fused in ((torch.device("cuda"), False), (CPU, True)):
        module = torchscript.fused(torchscript.load(path).module, device)
        assert torch.jit.onednn_fusion_enabled() is fused  # type: ignore[no-untyped-call]  # it refuses GPU tensors
        with torch.inference_mode():
            for _ in range(4):
                module(torch.zeros(2, 3, 16, 16))
        graph = str(torch.jit.last_executed_optimized_graph())  # type: ignore[attr-defined]
        assert ("oneDNNFusionGroup" in graph) is fused and "batch_norm" not in graph


def test_a_frozen_network_is_not_fused(path: Path) -> None:
    torch.jit.enable_onednn_fusion(True)
    torchscript.frozen(torchscript.load(path).module)
    assert not torch.jit.onednn_fusion_enabled()  # type: ignore[no-untyped-call]


def test_nothing_is_fused_where_a_network_attends() -> None:
    class Attending(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.bmm(images)

    with torchscript.quiet():
        traced = torch.jit.trace(Attending().eval(), torch.ones(2, 3, 3))  # type: ignore[no-untyped-call]
    torchscript.fused(traced, CPU)
    assert not torch.jit.onednn_fusion_enabled()  # type: ignore[no-untyped-call]


def test_more_images_than_the_largest_batch_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="17 images, may have at most 16"):
        engine_of(path).buffer(17)


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
    module = engine.module

    def counted(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return module(batch)

    engine.module = counted
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
    assert precision.choose_precision(wanted, CPU) == expected


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"),
    [((9, 0), True, ["fp16", "bf16", "fp32"]), ((7, 0), False, ["fp16", "fp32"]), ((6, 1), False, ["fp32"])],
)
def test_auto_looks_at_the_gpu(
    capability: tuple[int, int], bf16: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    assert precision.by_speed(torch.device("cuda:0")) == expected
    assert precision.choose_precision("auto", torch.device("cuda:0")) == expected[0]
    assert precision.choose_precision("bf16", torch.device("cuda:0")) == "bf16"


def test_a_gpu_that_serves_in_fp16_trains_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda there=there, **_: there)
        assert choose_bf16("auto", torch.device("cuda:0")) is there


@pytest.mark.parametrize(("wanted", "device", "where"), [("int8", "cuda:0", "a CPU"), ("fp16", "cpu", "a GPU")])
def test_a_precision_of_another_device_is_refused(wanted: str, device: str, where: str) -> None:
    with pytest.raises(ValueError, match=f"precision is '{wanted}', which runs on {where} only"):
        precision.choose_precision(wanted, torch.device(device))


def test_an_unknown_precision_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="precision is 'fp64', must be one of auto, fp32, bf16, fp16, int8"):
        Classifier(path, precision="fp64")


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
