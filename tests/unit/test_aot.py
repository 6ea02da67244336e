"""The package compiled ahead of time: answers as the TorchScript artifact does, and refuses where it would not."""

import json
import platform
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import golden
from handlers.classifier import Classifier
from handlers.errors import ArtifactError
from handlers.golden import GoldenError
from handlers.network import aot, torchscript
from handlers.requests.request import Field, RawRequest
from handlers.service import Service
from tests.unit.small_network import SmallNetwork, save_small, small_spec
from tests.unit.test_classifier import png
from tests.unit.test_engine import ask
from training.networks import build

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one network as model.pt and as model.pt2, and golden images answered by the first."""
    folder = tmp_path_factory.mktemp("exported")
    save_small(folder / "model.pt")
    torch.manual_seed(0)
    aot.save(SmallNetwork(), small_spec(), folder / "model.pt2")
    images = {f"{seed}.png": png(seed) for seed in range(4)}
    golden.write(golden.of(Classifier(folder / "model.pt"), images), folder / golden.FILE)
    return folder


def test_the_golden_images_are_answered_alike_in_each_precision(folder: Path) -> None:
    kept = golden.read(folder / golden.FILE)
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 0.05)):
        classifier = Classifier(folder / "model.pt2", precision=precision)
        assert isinstance(classifier.engine.module, aot._Package)
        assert classifier.spec == small_spec()
        assert golden.check(classifier, kept) <= tolerance


def test_a_network_of_grey_images_is_answered_as_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aot, "PRECISIONS", ("fp32",))  # each takes seconds
    torch.manual_seed(0)
    layers = [{"channels": 32, "pool": "max"}, {"channels": 64, "pool": "max"}]
    network = build({"kind": "cnn", "layers": layers}, 3, 1, 32).eval()
    aot.save(network, small_spec(size=32, colour="grey"), tmp_path / "grey.pt2")
    batch = torch.rand(8, 1, 32, 32)
    with torch.no_grad():
        expected = network(batch)
    exact = ask(aot.load(tmp_path / "grey.pt2", CPU, "fp32")[1], batch)
    torch.testing.assert_close(exact, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 15, 16])
def test_batches_of_any_size_are_answered_as_by_torchscript(folder: Path, count: int) -> None:
    batch = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        expected = torchscript.load(folder / "model.pt").module(batch)
    exact, rounded = (ask(aot.load(folder / "model.pt2", CPU, each)[1], batch) for each in aot.PRECISIONS)
    torch.testing.assert_close(exact, expected, rtol=1e-4, atol=1e-4)
    assert exact.dtype == rounded.dtype == torch.float32
    assert 0 < (rounded - expected).abs().max() / expected.abs().max() < 0.02


def test_more_images_than_a_batch_holds_are_answered_in_parts(folder: Path) -> None:
    images = [png(seed) for seed in range(40)]
    compiled, scripted = (Classifier(folder / name) for name in ("model.pt2", "model.pt"))
    for ours, theirs in zip(compiled.classify(images), scripted.classify(images), strict=True):
        assert isinstance(theirs, dict) and ours == pytest.approx(theirs, abs=1e-5)


def test_it_answers_behind_a_front_door(folder: Path) -> None:
    threads = torch.get_num_threads()
    try:
        settings = {"minWorkers": 1, "handler": {"max_images": 1, "precision": "fp32"}}
        service = Service(folder / "model.pt2", settings, version="1")
    finally:
        torch.set_num_threads(threads)
    good, bad = service.answer([RawRequest({}, [Field("body", body)]) for body in (png(0), b"no image")])
    assert good.code == 200 and bad.code == 400
    assert good.document == pytest.approx(Classifier(folder / "model.pt").classify([png(0)])[0], abs=1e-5)


def test_a_broken_golden_answer_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.pt2", tmp_path)
    document = json.loads((folder / golden.FILE).read_text())
    document[2]["probabilities"] = [0.2, 0.3, 0.5]
    (tmp_path / golden.FILE).write_text(json.dumps(document))
    with pytest.raises(GoldenError, match=r"2\.png is answered otherwise"):
        Service(tmp_path / "model.pt2", {"minWorkers": 64}, version="1")


def changed(source: Path, target: Path, change: Callable[[dict[str, Any]], Any] | None) -> Path:
    """Copy a package with another build.json; None leaves it out."""
    with zipfile.ZipFile(source) as read, zipfile.ZipFile(target, "w") as write:
        for name in read.namelist():
            content = read.read(name)
            if name.endswith(aot.BUILD_FILE):
                if change is None:
                    continue
                document = json.loads(content)
                change(document)
                content = json.dumps(document).encode()
            write.writestr(name, content)
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch": "2.14.1"}, r"compiled by torch 2\.14\.1, here is 2\.\d+\.\d+: export it again here with format=pt2"),
        ({"machine": "s390x"}, r"compiled for s390x, here is \w+: export"),
        ({"capabilities": ["avx2000"]}, r"for a processor with avx2000, which this lacks: export"),
    ],
)
def test_another_machine_or_torch_is_refused(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = changed(folder / "model.pt2", tmp_path / "model.pt2", lambda document: document.update(change))
    with pytest.raises(ArtifactError, match=message):
        Classifier(path)


def test_what_this_processor_can_do_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    able = {"sve": False, "avx512_f": True, "avx2": True, "architecture": "x86_64", "vnni": 1}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch, "__version__", "2.15.0+cpu")
    here = aot._platform()
    assert (here["torch"], here["capabilities"]) == ("2.15.0", ["avx2", "avx512_f"])
    assert here["machine"] == platform.machine()


def test_a_processor_that_can_do_more_is_served(folder: Path, tmp_path: Path) -> None:
    path = changed(folder / "model.pt2", tmp_path / "model.pt2", lambda document: document.update(capabilities=[]))
    assert Classifier(path).classify([png(0)]) == Classifier(folder / "model.pt2").classify([png(0)])


def test_a_gpu_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"compiled for a CPU, not for cuda:0: serve model\.pt there"):
        aot.load(folder / "model.pt2", torch.device("cuda:0"), "fp32")


def test_a_precision_that_was_not_compiled_is_named(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has no int8 network, it has fp32, bf16: serve model\.pt for it"):
        aot.load(folder / "model.pt2", CPU, "int8")


def test_a_file_that_is_no_package_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with pytest.raises(ArtifactError, match=r"model\.pt2 does not exist; export"):
        Classifier(path)
    whole = (folder / "model.pt2").read_bytes()
    for content in (b"", b"not a package", whole[: len(whole) // 2], (folder / "model.pt").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"model\.pt2 is not an artifact or is damaged"):
            Classifier(path)
    with pytest.raises(ArtifactError, match="damaged"):
        Classifier(changed(folder / "model.pt2", path, None))


def test_saving_leaves_no_other_file(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == ["golden.json", "model.pt", "model.pt2"]


def test_a_missing_compiler_is_told_with_the_remedy(tmp_path: Path) -> None:
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(ArtifactError, match=r"model\.pt2 needs a C\+\+ compiler: apt-get install g\+\+"),
    ):
        aot.save(SmallNetwork(), small_spec(), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_network_of_one_batch_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"torch\.export takes the network for one batch size only"):
        aot.save(SmallNetwork(fixed_batch=True), small_spec(), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_the_two_formats_tell_themselves_by_their_suffix(folder: Path) -> None:
    assert [aot.is_aot_package(folder / name) for name in ("model.pt", "model.pt2")] == [False, True]
    assert torchscript.load(folder / "model.pt").spec == small_spec()
