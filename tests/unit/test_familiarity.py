"""Familiarity: made at export from training images, carried in the archive, and answered for each image."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from handlers.classifier import Classifier
from handlers.errors import ArtifactError
from handlers.network import torchscript
from handlers.network.familiarity import LARGEST, STEPS, Familiarity
from handlers.requests.labels import LEAST_FAMILIAR, Labels, familiarity_header, shown, word_of
from handlers.run_folder import RunFolder
from handlers.spec import FAMILIARITY
from serving import archive
from tests.unit.banked_network import PlainNetwork, save_banked
from tests.unit.small_network import save_small, small_spec
from tests.unit.test_classifier import png
from tests.unit.tinted_store import TINY, tinted_store
from training import export
from training.configuration import compose
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.train import train
from training.transfer import familiarity

Floats = npt.NDArray[np.float32]


def clusters(count: int, *, width: int = 40, classes: int = 4, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return embeddings around a centre a class; the centres are the same for every seed."""
    centres = np.random.default_rng(99).normal(3, 1, (classes, width))
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (centres[labels] + random.normal(0, 0.3, (count, width))).astype(np.float32), labels


@pytest.fixture(scope="module")
def bank() -> Familiarity:
    return familiarity.bank_of(*clusters(400), clusters(200, seed=1)[0])


def test_95_percent_of_the_validation_images_are_familiar(bank: Familiarity) -> None:
    values = np.array(bank.values(torch.from_numpy(clusters(200, seed=1)[0])))
    assert 0.95 <= (values >= LEAST_FAMILIAR).mean() <= 0.96
    unseen = np.array(bank.values(torch.from_numpy(clusters(400, seed=2)[0])))
    assert 0.9 < (unseen >= LEAST_FAMILIAR).mean() < 0.99


def test_a_training_image_is_familiar_and_another_class_is_not(bank: Familiarity) -> None:
    training, _ = clusters(400)
    assert min(bank.values(torch.from_numpy(training))) > 0.5
    other = np.random.default_rng(5).normal(3, 1, (20, training.shape[1])).astype(np.float32)
    assert max(bank.values(torch.from_numpy(other))) < LEAST_FAMILIAR


def test_familiarity_is_the_share_of_validation_images_that_are_as_far(bank: Familiarity) -> None:
    distances = bank.distances(torch.from_numpy(clusters(200, seed=1)[0]))
    for distance in np.linspace(0, 1.2 * float(distances.max()), 50).tolist():
        share = float((distances >= distance).float().mean())
        assert bank.share_beyond(distance) == pytest.approx(share, abs=1 / STEPS + 1 / 200)
    assert bank.share_beyond(0.0) == 1 and bank.share_beyond(float("nan")) == 0
    assert bank.share_beyond(bank.quantiles[95]) >= LEAST_FAMILIAR > bank.share_beyond(bank.quantiles[95] + 1e-4)


def test_the_file_is_read_as_it_was_written(bank: Familiarity, tmp_path: Path) -> None:
    path = tmp_path / FAMILIARITY
    bank.write(path)
    again = Familiarity.read(path)
    images = torch.from_numpy(clusters(9, seed=3)[0])
    assert again.quantiles == bank.quantiles and torch.equal(again.distances(images), bank.distances(images))
    before = path.read_bytes()
    familiarity.bank_of(*clusters(400), clusters(200, seed=1)[0]).write(path)
    assert path.read_bytes() == before and len(before) < LARGEST


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no json\n", b"cut"])
def test_a_damaged_file_is_named(bank: Familiarity, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / FAMILIARITY
    bank.write(path)
    path.write_bytes(path.read_bytes()[:-3] if content == b"cut" else content)
    with pytest.raises(ArtifactError, match=r"familiarity\.bin is damaged; export the model again"):
        Familiarity.read(path)


@pytest.mark.parametrize(("width", "images"), [(1280, 4096), (9000, 300), (3, 50)])
def test_the_file_of_any_network_is_small(width: int, images: int, tmp_path: Path) -> None:
    familiarity.bank_of(*clusters(images, width=width), clusters(40, width=width, seed=1)[0]).write(tmp_path / "bank")
    assert (tmp_path / "bank").stat().st_size <= LARGEST


@pytest.mark.parametrize("classes", [2, 5])
def test_one_image_a_class_is_enough_to_compute(classes: int) -> None:
    images, labels = clusters(classes, classes=classes)
    bank = familiarity.bank_of(images, labels, images)
    assert all(np.isfinite(bank.distances(torch.from_numpy(images)).numpy()))


def test_a_bank_of_a_large_data_set_has_as_many_images_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [50, 1000, 5])
    rows = np.arange(len(labels)) + 7
    chosen = familiarity.evenly(rows, labels, 100)
    counts = np.bincount(labels[chosen - 7])
    assert len(chosen) == len(set(chosen)) == 100 and counts[2] == 5 and abs(counts[0] - counts[1]) <= 1
    assert np.array_equal(chosen, familiarity.evenly(rows, labels, 100)) and (np.diff(chosen) > 0).all()
    assert np.array_equal(familiarity.evenly(rows, labels, 2000), rows)


def test_the_header_says_a_value_and_a_word_of_each_image() -> None:
    assert familiarity_header([0.37251, 0.0, None, 1.0]) == "0.372;familiar, 0.000;unfamiliar, none, 1.000;familiar"
    # The word and the rounded value agree.
    assert shown(0.04999) == 0.049 and word_of(0.04999) == "unfamiliar"
    assert shown(0.05) == 0.05 and word_of(0.05) == "familiar"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_are_the_same_with_a_bank_and_say_how_familiar_an_image_is(tmp_path: Path, precision: str) -> None:
    weights = save_banked(tmp_path)
    images = [png(seed) for seed in range(20)] + [b"no image"]
    with_bank = Classifier(weights, precision=precision).classify(images)
    weights.with_name(FAMILIARITY).unlink()
    without = Classifier(weights, precision=precision).classify(images)
    for ours, theirs in zip(with_bank[:-1], without[:-1], strict=True):
        assert isinstance(ours, Labels) and isinstance(theirs, Labels)
        assert list(ours) == list(theirs) and ours == pytest.approx(theirs, abs=1e-6)
        assert ours.familiarity is not None and 0 <= ours.familiarity <= 1 and theirs.familiarity is None
    assert str(with_bank[-1]) == str(without[-1])


def test_the_network_runs_once_for_logits_and_embedding(tmp_path: Path) -> None:
    module = Classifier(save_banked(tmp_path)).engine.module
    assert isinstance(module, nn.Module)
    assert str(module.inlined_graph).count("aten::_convolution") == 1


def test_a_bank_of_another_network_is_refused(tmp_path: Path) -> None:
    weights = save_banked(tmp_path)
    familiarity.bank_of(*clusters(40), clusters(40, seed=1)[0]).write(weights.with_name(FAMILIARITY))
    with pytest.raises(ArtifactError, match=r"model\.pt and familiarity\.bin are of two exports; export the model"):
        Classifier(weights)


def test_a_network_without_a_head_has_no_bank(tmp_path: Path) -> None:
    class Headless(PlainNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.last = self.head
            del self.head

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.last(self.embedding(images))
            return logits

    torchscript.save(Headless(), small_spec(), tmp_path / "model.pt")
    with pytest.raises(ArtifactError, match="the network has no head that takes its embedding"):
        torchscript.with_embedding(torchscript.load(tmp_path / "model.pt").module)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinted_store(tmp_path_factory.mktemp("project"), images=90)


@pytest.fixture(scope="module")
def run(root: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root / train(compose([*TINY, "name=familiar", "trainer.epochs=1"]), lambda _: None)


def test_training_writes_the_bank_and_the_same_one_again(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    about = json.loads((run / "export.json").read_text())["familiarity"]
    images = json.loads((run / "train.json").read_text())["images"]
    path = RunFolder(run).familiarity
    before = path.read_bytes()
    assert about["images"] == images["train"] and about["validation"] == images["validation"]
    assert about["bytes"] == len(before) and about["threshold"] == Familiarity.read(path).quantiles[95]
    assert export.main(["name=familiar"]) == 0 and path.read_bytes() == before


def test_what_is_served_is_as_familiar_as_at_export(run: Path, root: Path) -> None:
    classifier = Classifier(run / "model.pt", top_k=1)
    data = PreparedDataset.open(root / "data/processed/tinted")
    split = data.split(SplitSpec.from_config(compose(TINY).split))

    def values(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        answers = classifier.classify([data.record(int(row)).read(data.raw) for row in rows])
        return np.array([answer.familiarity for answer in answers if isinstance(answer, Labels)], np.float64)

    validation = values(split.validation)
    assert len(validation) >= familiarity.LEAST_VALIDATION
    assert (validation >= LEAST_FAMILIAR).mean() >= 0.95
    training = values(split.train)
    assert training.mean() > 0.7 and (training >= LEAST_FAMILIAR).all()
    assert validation.mean() == pytest.approx(0.5, abs=0.05)


def test_an_archive_carries_the_bank_and_its_digest(run: Path, tmp_path: Path) -> None:
    built = archive.build("familiar", "1.0", run=run, store=tmp_path / "a", rehearse=False)
    again = archive.build("familiar", "1.0", run=run, store=tmp_path / "b", rehearse=False)
    assert built.path.read_bytes() == again.path.read_bytes()
    with zipfile.ZipFile(built.path) as file:
        assert file.read(FAMILIARITY) == (run / FAMILIARITY).read_bytes()
    assert FAMILIARITY in json.loads(built.sidecar.read_text())["members"]


def test_a_run_without_a_bank_is_archived_as_before(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    save_small(tmp_path / "run" / "model.pt")
    built = archive.build("old", "1.0", run=tmp_path / "run", store=tmp_path / "store", rehearse=False)
    with built.unpacked() as weights:
        assert not weights.with_name(FAMILIARITY).exists()
        (answer,) = Classifier(weights).classify([png(0)])
    assert isinstance(answer, Labels) and answer.familiarity is None


def test_too_few_validation_images_set_no_threshold(run: Path, root: Path, tmp_path: Path) -> None:
    data = PreparedDataset.open(root / "data/processed/tinted")
    split = data.split(SplitSpec.from_config(compose(TINY).split))
    few = type(split)(split.train, split.validation[:19], split.test, split.transformed)
    embeddings = familiarity.embed(run / "model.pt", None, data, few, torch.zeros(19, 3), None)
    about = familiarity.write(run / "model.pt", embeddings)
    assert about == {"why": "there are 19 validation images: a threshold needs 20"}


def test_a_network_whose_head_does_not_give_its_logits_has_no_bank(run: Path, root: Path, tmp_path: Path) -> None:
    data = PreparedDataset.open(root / "data/processed/tinted")
    split = data.split(SplitSpec.from_config(compose(TINY).split))
    shutil.copy(run / "model.pt", tmp_path / "model.pt")
    wrong = torch.full((len(split.validation), 3), 100.0)
    about = familiarity.write(
        tmp_path / "model.pt", familiarity.embed(run / "model.pt", None, data, split, wrong, None)
    )
    assert about == {"why": "the logits of the network are not those of its head for its embedding"}
    assert not (tmp_path / FAMILIARITY).exists()
