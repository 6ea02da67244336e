import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import golden
from handlers.classifier import Classifier
from handlers.network import aot as exported
from handlers.network import torchscript
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from serving import archive
from serving.store import rehearsal
from serving.store.model_store import ArchiveError
from tests.unit.tinted_store import SIDE, TINY, tinted_store
from training import export
from training import golden as golden_images
from training.cards import cards
from training.configuration import compose
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.networks import Network, build
from training.quantization import QuantizationError, quantize
from training.temperature import fit_temperature
from training.train import train


@pytest.fixture(scope="module", autouse=True)
def few_images_decide_a_temperature() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.temperature.LEAST_IMAGES", 1)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinted_store(tmp_path_factory.mktemp("project"), images=12)


@pytest.fixture(scope="module")
def run(root: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root / train(compose([*TINY, "name=exported", "trainer.epochs=1", "trainer.ema=0.9"]), lambda _: None)


def test_the_artifact_is_compared_on_every_validation_image(run: Path) -> None:
    document = json.loads((run / "export.json").read_text())
    assert document["images"] == json.loads((run / "train.json").read_text())["images"]["validation"] > 0
    assert document["different_top1"] == 0 and 0 <= document["largest_difference"] <= 1e-4


def test_the_temperature_is_that_of_the_validation_images_and_is_in_every_artifact(run: Path, root: Path) -> None:
    document = json.loads((run / "export.json").read_text())
    artifacts = [torchscript.load(run / name) for name in ("model.pt", "model.int8.pt")]
    temperature = artifacts[0].spec.temperature
    assert [each.spec.temperature for each in artifacts] == [document["temperature"]["value"]] * 2 and temperature != 1
    data = PreparedDataset.open(root / "data/processed/tinted")
    rows = data.split(SplitSpec.from_config(compose(TINY).split)).validation
    inputs = Preprocess(artifacts[0].spec.preprocess).normalize(torch.from_numpy(data.images[rows]))
    with torch.no_grad():
        fitted = fit_temperature(artifacts[0].module(inputs), torch.from_numpy(data.labels[rows]))
    assert fitted.value == pytest.approx(temperature, rel=1e-3)
    assert document["temperature"]["images"] == len(rows) == document["images"]
    assert document["temperature"]["says"].startswith(f"temperature {temperature:g}: log-loss ")
    kept = golden.read(run / golden.FILE)
    exact = Classifier(run / "model.pt")
    pixels = golden.decoded(exact, [each.image for each in kept])
    with torch.no_grad():
        logits = artifacts[0].module(exact.preprocess.normalize(torch.stack(pixels)))
    expected = (logits / temperature).softmax(dim=1)
    torch.testing.assert_close(torch.tensor([each.probabilities for each in kept]), expected, rtol=0, atol=1e-5)


def test_the_artifact_holds_the_averaged_weights(run: Path) -> None:
    state = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    exported = torchscript.load(run / "model.pt").module.state_dict()
    assert torch.equal(exported["head.weight"], state["average.module.head.weight"])
    assert not torch.equal(exported["head.weight"], state["network.head.weight"])


def test_mean_and_deviation_are_those_of_the_training_images(run: Path, root: Path) -> None:
    data = PreparedDataset.open(root / "data/processed/tinted")
    rows = data.split(SplitSpec.from_config(compose(TINY).split)).train
    pixels = data.images[rows] / 255
    spec = torchscript.load(run / "model.pt").spec
    assert spec.preprocess.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert spec.preprocess.std == pytest.approx(pixels.std((0, 2, 3)))


def test_the_command_makes_the_same_artifact_again(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    before = torchscript.load(run / "model.pt")
    (run / "model.pt").unlink()
    assert export.main(["name=exported"]) == 0
    said = capsys.readouterr().out
    assert "largest difference" in said and "\ntemperature " in said
    after = torchscript.load(run / "model.pt")
    assert after.spec == before.spec
    weights = after.module.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.module.state_dict().items())
    assert export.main(["name=nothing"]) == 1
    assert capsys.readouterr().err.startswith("error: runs/nothing/config.yaml does not exist")


def test_what_was_planned_to_fit_into_a_time_is_exported_as_it_was_trained(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr("training.pace.fitting_epochs", lambda *_: 2)
    hurried = ("name=hurried", "trainer.max_minutes=60", "trainer.epochs=9")
    run = train(compose([*TINY, *hurried]), lambda _: None)
    before = torchscript.load(run / "model.pt")
    assert before.spec.provenance["config"]["trainer"]["epochs"] == 2

    def again(*_: Any) -> int:
        raise AssertionError("planned anew")

    monkeypatch.setattr("training.pace.fitting_epochs", again)
    (run / "model.pt").unlink()
    assert export.main(["name=hurried"]) == 0, capsys.readouterr().err
    after = torchscript.load(run / "model.pt")
    assert after.spec == before.spec
    weights = after.module.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.module.state_dict().items())


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++")
def test_the_command_compiles_ahead_of_time(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(exported, "PRECISIONS", ("fp32",))  # each takes seconds; tests/unit/test_aot.py has them all
    before = {name: (run / name).read_bytes() for name in ("model.pt", golden.FILE, "export.json")}
    assert export.main(["name=exported", "format=pt2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("exporting runs/exported/model.pt2: compiling takes minutes\n")
    assert "runs/exported/model.pt2: largest difference" in said
    assert before == {name: (run / name).read_bytes() for name in before}
    kept = golden.read(run / golden.FILE)
    assert golden.check(Classifier(run / "model.pt2"), kept) <= 1e-5
    built = archive.build("exported", "1.0", kind="pt2", overrides=["handler.precision=fp32"])
    with built.unpacked() as weights:
        assert weights.name == "model.pt2" and (weights.parent / golden.FILE).read_bytes() == before[golden.FILE]
        assert Classifier(weights).spec.classes == tuple(json.loads(built.sidecar.read_text())["classes"])
    document = json.loads((run / golden.FILE).read_text())
    document[0]["probabilities"][0] += 0.1
    (run / golden.FILE).write_text(json.dumps(document))
    before_package = (run / "model.pt2").read_bytes()
    # Compiled once is enough: it is the answers that are wrong now.
    monkeypatch.setattr(exported, "save", lambda network, spec, path: path.write_bytes(before_package))
    try:
        assert export.main(["name=exported", "format=pt2"]) == 1
        assert "answered otherwise" in capsys.readouterr().err
        assert (run / "model.pt2").read_bytes() == before_package and not list(run.glob(".export-*"))
    finally:
        (run / golden.FILE).write_bytes(before[golden.FILE])


def test_an_unknown_format_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main(["name=exported", "format=onnx"]) == 1
    assert capsys.readouterr().err == "error: format=onnx: use torchscript or pt2\n"


def test_a_checkpoint_of_other_data_is_not_exported(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    document = root / "data/processed/tinted/dataset.json"
    before = document.read_text()
    document.write_text(json.dumps({**json.loads(before), "fingerprint": "another"}))
    try:
        assert export.main(["name=exported"]) == 1
        assert "is of other data" in capsys.readouterr().err
    finally:
        document.write_text(before)


class Scaled:
    """An exported network that answers a little otherwise."""

    def __init__(self, network: Network, by: float) -> None:
        self.network, self.by = network, by

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(inputs)
        return logits * self.by


def test_an_artifact_that_answers_otherwise_is_not_written(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    before = (run / "model.pt").read_bytes()
    load = torchscript.load

    def broken(path: Any, device: str = "cpu") -> torchscript.Artifact:
        loaded = load(path, device)
        return torchscript.Artifact(Scaled(loaded.module, 1.1), loaded.spec)  # type: ignore[arg-type]

    monkeypatch.setattr(torchscript, "load", broken)
    assert export.main(["name=exported"]) == 1
    assert "was not written" in capsys.readouterr().err
    assert (run / "model.pt").read_bytes() == before and not list(run.glob(".export-*"))


def test_compare_counts_other_answers() -> None:
    network, other = (build({"kind": "cnn", "layers": [{"channels": 4}]}, 3, 3, 8).eval() for _ in range(2))
    with torch.no_grad():
        network.head.bias.add_(torch.tensor([100.0, 0.0, 0.0]))
        other.head.bias.add_(torch.tensor([0.0, 0.0, 100.0]))
    preprocess = Preprocess(PreprocessSpec(image_size=8))
    batches = [(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.zeros(5))]
    logits, labels = export._answers(network, preprocess, batches)
    assert logits.shape == (5, 3) and labels.tolist() == [0.0] * 5
    document = export.compare(logits, other, preprocess, batches, 1.0)
    assert document["different_top1"] == 5 and document["largest_difference"] > 0.9
    assert export.compare(logits, network, preprocess, batches, 1.0)["largest_difference"] == 0
    # A high temperature makes both unsure: what is compared is what is served.
    assert export.compare(logits, other, preprocess, batches, 1000.0)["largest_difference"] < 0.1


def chosen(run: Path, root: Path) -> list[golden.Golden]:
    """Return the golden images that would be chosen now."""
    data = PreparedDataset.open(root / "data/processed/tinted")
    return golden_images.choose(run / "model.pt", data, data.split(SplitSpec.from_config(compose(TINY).split)))


def test_golden_images_are_the_files_of_several_classes_and_drawn_ones(run: Path, root: Path) -> None:
    kept = golden.read(run / golden.FILE)
    assert kept == chosen(run, root)  # archives are the same byte for byte
    files = {path.read_bytes(): path.parent.name for path in (root / "raw").rglob("*.jpg")}
    assert {files[each.image] for each in kept if not each.drawn} == {"blue", "green", "red"}
    assert {each.name: each.image for each in kept if each.drawn} == cards(SIDE)
    assert all(each.pixels and len(each.pixels) == 3 * SIDE * SIDE for each in kept)


def test_the_surest_images_of_each_class_are_chosen(run: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_images, "IMAGES", 3)
    data = PreparedDataset.open(root / "data/processed/tinted")
    split = data.split(SplitSpec.from_config(compose(TINY).split))
    kept = golden_images.choose(run / "model.pt", data, dataclasses.replace(split, validation=split.train))
    classifier = Classifier(run / "model.pt")
    for rows in golden_images.candidates(data.labels[split.train], split.train):
        best = classifier.predict([torch.from_numpy(data.images[row].copy()) for row in rows]).topk(2).values
        surest = rows[int((best[:, 0] / best[:, 1]).argmax())]
        assert len(rows) == 4 and data.record(int(surest)).read(data.raw) in [each.image for each in kept]


def test_pixels_travel_where_the_files_are_gone_changed_or_large(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = golden.read(run / golden.FILE)
    (root / "raw").rename(root / "elsewhere")
    try:
        moved = chosen(run, root)
    finally:
        (root / "elsewhere").rename(root / "raw")
    shutil.copytree(root / "raw", root / "before")
    try:
        for path in (root / "raw").rglob("*.jpg"):
            path.write_bytes(next(iter(cards(SIDE).values())))
        changed = chosen(run, root)
    finally:
        shutil.rmtree(root / "raw")
        (root / "before").rename(root / "raw")
    monkeypatch.setattr(golden_images, "LARGEST", 10)
    for kept in (moved, changed, chosen(run, root)):
        assert [each.pixels for each in kept] == [each.pixels for each in before]
        assert all(each.image.startswith(b"\x89PNG") for each in kept if not each.drawn)


def test_what_is_decoded_otherwise_than_it_was_prepared_is_not_exported(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mutant that drops scaled decoding from `prepare` or from serving leaves such a data set behind."""
    monkeypatch.chdir(root)
    before = (run / "model.pt").read_bytes()
    resize = Preprocess.resize
    monkeypatch.setattr(Preprocess, "resize", lambda self, image: resize(self, image.flip(1)))
    assert export.main(["name=exported"]) == 1
    error = capsys.readouterr().err
    assert "is decoded differently than when it was prepared" in error and error.count("\n") == 1
    assert (run / "model.pt").read_bytes() == before


def test_golden_images_of_an_older_release_are_not_archived(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "older")
    file = tmp_path / "older" / golden.FILE
    golden.write([dataclasses.replace(each, pixels=None) for each in golden.read(file)], file)
    with pytest.raises(ArchiveError, match=r"without pixels: export the run again \(python -m .*name=older"):
        archive.build("older", "1.0", runs=tmp_path, store=tmp_path / "store")
    file.write_text("[{")
    with pytest.raises(ArchiveError, match=r"older cannot be archived: golden\.json is damaged"):
        archive.build("older", "1.0", runs=tmp_path, store=tmp_path / "store")


def test_int8_is_calibrated_compared_and_kept_beside_the_artifact(run: Path) -> None:
    document = json.loads((run / "export.json").read_text())["int8"]
    lost = document["top1_lost"]
    assert document["allowed"] == 0.005 < lost["high"] and lost["low"] <= lost["value"] and not document["offered"]
    assert document["why"].startswith(f"too few images to tell ({document['images']}): it loses")
    assert document["images"] == json.loads((run / "train.json").read_text())["images"]["validation"]
    assert 0 < document["largest_difference"] < 0.1  # rounded, and not by much
    exact, rounded = (Classifier(run / "model.pt", precision=each) for each in ("fp32", "int8"))
    kept = golden.read(run / golden.FILE)
    images = [each.image for each in kept]
    for ours, theirs, each in zip(golden.answers(exact, images), golden.answers(rounded, images), kept, strict=True):
        assert each.probabilities == pytest.approx(ours, abs=1e-5) and each.int8 == pytest.approx(theirs, abs=1e-3)
        assert ours != theirs
    golden.check(rounded, kept)
    with pytest.raises(golden.GoldenError, match="allowed in int8"):
        golden.check(rounded, [dataclasses.replace(each, int8=(0.5, 0.25, 0.25)) for each in kept])


def test_int8_that_loses_too_much_is_not_offered_and_is_built_by_name_with_a_warning(
    run: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(root)

    def wrong(network: Network, batches: Iterator[torch.Tensor]) -> torch.nn.Module:
        return Negated(quantize(network, batches)).eval()

    monkeypatch.setattr(export, "quantize", wrong)
    assert export.main([*TINY, "name=exported", "trainer.epochs=1", "trainer.ema=0.9"]) == 0
    document = json.loads((run / "export.json").read_text())["int8"]
    said = capsys.readouterr().out
    assert not document["offered"] and "int8 is not offered: " in said and document["why"] in said
    assert document["lost"] > document["gained"] and document["top1_lost"]["value"] > 0.1
    monkeypatch.setattr(export, "quantize", quantize)
    assert export.main([*TINY, "name=exported", "trainer.epochs=1", "trainer.ema=0.9"]) == 0
    assert (run / "model.int8.pt").exists() and "int8 is not offered: too few images to tell" in capsys.readouterr().out
    with caplog.at_level("WARNING"):
        built = archive.build("exported", "2.0", overrides=["handler.precision=int8"], rehearse=False)
    assert "int8 may cost accuracy: too few images to tell" in caplog.text and "points of top-1" in caplog.text
    assert rehearsal.rehearse(built).precision == "int8"


def test_int8_that_cannot_be_made_or_measured_costs_nothing_else(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    (run / "model.pt2").write_bytes(b"of weights that are gone")

    def failing(*_: Any) -> None:
        raise RuntimeError("quantized layers of another kind\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(torchscript, "save_quantized", failing)
        assert export.main([*TINY, "name=exported", "trainer.epochs=1", "trainer.ema=0.9"]) == 0
    assert "int8 is not offered: quantized layers of another kind\n" in capsys.readouterr().out
    assert (run / "model.pt").exists() and not (run / "model.int8.pt").exists() and not (run / "model.pt2").exists()
    assert all(each.int8 is None for each in golden.read(run / golden.FILE))
    assert export.main([*TINY, "name=exported", "trainer.epochs=1", "trainer.ema=0.9"]) == 0


def test_int8_is_offered_on_the_evidence_of_enough_images() -> None:
    for images, lost, offered in ((4, 0, False), (500, 0, False), (600, 0, True), (2000, 2, True), (2000, 40, False)):
        document = export.judge_int8({"images": images, "lost": lost, "gained": 0})
        assert document["offered"] is offered and ("why" in document) is not offered
        assert document.get("why", "").startswith("too few") is (images in (4, 500))


class Negated(torch.nn.Module):
    """The opposite of what a network says."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x).neg()  # type: ignore[no-any-return]


def test_a_network_that_cannot_be_quantized_is_exported_without(tmp_path: Path) -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(QuantizationError, match="the network cannot be quantized: symbolically traced variables"):
        quantize(Branching(), [torch.zeros(1, 3, 4, 4)])
