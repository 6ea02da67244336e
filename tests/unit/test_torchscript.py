import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from handlers.errors import ArtifactError
from handlers.network import torchscript
from tests.unit.small_network import SmallNetwork, small_spec
from training.quantization import quantize


@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_a_loaded_artifact_answers_as_the_network_for_any_batch(tmp_path: Path, batch: int) -> None:
    network = SmallNetwork()
    torchscript.save(network, small_spec(), tmp_path / "model.pt")
    loaded = torchscript.load(tmp_path / "model.pt")
    images = torch.randn(batch, 3, 16, 16)
    network.eval()
    with torch.no_grad():
        for name in ("forward", "features", "embedding"):
            torch.testing.assert_close(getattr(loaded.module, name)(images), getattr(network, name)(images))
        assert loaded.module(images).dtype == torch.float32
        assert torch.equal(loaded.module(images), loaded.module(images)), "dropout is active"


def test_the_spec_travels_inside(tmp_path: Path) -> None:
    torchscript.save(SmallNetwork(), small_spec(), tmp_path / "model.pt")
    assert torchscript.load(tmp_path / "model.pt").spec == small_spec()


def test_saving_leaves_the_model_as_it_was_and_no_other_file(tmp_path: Path) -> None:
    network = SmallNetwork().double().train()
    torchscript.save(network, small_spec(), tmp_path / "model.pt")
    assert network.training
    assert network.head.weight.dtype == torch.float64
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_trace_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="'forward' traced with 2 images answers otherwise for 1"):
        torchscript.save(SmallNetwork(fixed_batch=True), small_spec(), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_network_without_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no method 'features'"):
        torchscript.save(torch.nn.Conv2d(3, 4, 1), small_spec(), tmp_path / "model.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.pt does not exist; export"):
        torchscript.load(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"not an artifact", b"PK\x03\x04 nor is this"])
def test_a_file_that_is_no_artifact_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.pt is not an artifact or is damaged"):
        torchscript.load(tmp_path / "model.pt")


def test_a_truncated_artifact_is_named(tmp_path: Path) -> None:
    torchscript.save(SmallNetwork(), small_spec(), tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="damaged"):
        torchscript.load(tmp_path / "model.pt")


def _save_with(path: Path, files: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        module = torch.jit.script(torch.nn.Linear(1, 1))
        torch.jit.save(module, str(path), _extra_files=files)


def test_torchscript_without_a_spec_is_refused(tmp_path: Path) -> None:
    _save_with(tmp_path / "model.pt", {})
    with pytest.raises(ArtifactError, match=r"has no spec\.json inside"):
        torchscript.load(tmp_path / "model.pt")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    _save_with(tmp_path / "model.pt", {"spec.json": '{"schema_version": 99}'})
    with pytest.raises(ArtifactError, match=r"model\.pt: .*schema version 99.*update Sightline"):
        torchscript.load(tmp_path / "model.pt")


def test_an_int8_network_is_loaded_and_asked_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torchscript.save_quantized(quantize(SmallNetwork().eval(), [torch.randn(8, 3, 16, 16)]), small_spec(), path)
    code = (
        "import sys; from handlers.classifier import Classifier\n"
        "Classifier(sys.argv[1], precision='int8').warm_up(2)"
    )  # torch's C++ says it once a process, past Python's filters: so in a fresh one
    command = [sys.executable, "-W", "error", "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert torchscript.load(torchscript.quantized(path)).spec == small_spec()


@pytest.mark.parametrize("byte_products", [True, False])
def test_an_int8_network_is_run_by_what_packed_it(
    byte_products: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("handlers.network.torchscript", "training.quantization"):
        monkeypatch.setattr(f"{module}.multiplies_bytes", lambda: byte_products)
    path, images = tmp_path / "model.pt", torch.randn(8, 3, 16, 16)
    network = quantize(SmallNetwork().eval(), [images])
    engine = "onednn" if byte_products else "x86"
    assert torch.backends.quantized.engine == engine
    torchscript.save_quantized(network, small_spec(), path)
    expected = network(images)
    torch.backends.quantized.engine = "x86"  # as in a new process
    loaded = torchscript.load(torchscript.quantized(path)).module
    assert torch.backends.quantized.engine == engine
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), expected, atol=1e-4, rtol=1e-3)


def test_activations_of_8_bits_are_refused_where_they_saturate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    with monkeypatch.context() as patched:
        patched.setattr("training.quantization.multiplies_bytes", lambda: True)
        network = quantize(SmallNetwork().eval(), [torch.randn(8, 3, 16, 16)])
    torchscript.save_quantized(network, small_spec(), path)
    monkeypatch.setattr("handlers.network.torchscript.multiplies_bytes", lambda: False)
    with pytest.raises(ArtifactError, match=r"model\.int8\.pt: its activations have 8 bits.*precision=auto"):
        torchscript.load(torchscript.quantized(path))


def test_an_int8_network_of_an_older_release_runs_as_it_did(tmp_path: Path) -> None:
    path = torchscript.quantized(tmp_path / "model.pt")
    _save_with(path, {"spec.json": small_spec().to_json()})
    torch.backends.quantized.engine = "onednn"
    torchscript.load(path)
    assert torch.backends.quantized.engine == "x86"


def test_a_damaged_int8_network_is_refused(tmp_path: Path) -> None:
    path = torchscript.quantized(tmp_path / "model.pt")
    path.write_bytes(b"PK damaged")
    with pytest.raises(ArtifactError, match=r"model\.int8\.pt is not an artifact or is damaged"):
        torchscript.load(path)
