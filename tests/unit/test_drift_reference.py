"""The reference for drift is written by export, travels in an archive, and measures as the worker does."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.classifier import Classifier
from handlers.errors import ArtifactError
from handlers.observation.measurements import Projection
from handlers.observation.reference import LARGEST, Reference
from handlers.requests.labels import Labels
from handlers.run_folder import RunFolder
from handlers.spec import REFERENCE
from serving import archive
from tests.unit.tinted_store import TINY, tinted_store
from training import export
from training.configuration import compose
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.train import train
from training.transfer import reference
from training.transfer.familiarity import Embeddings

SETTINGS = (*TINY, "name=watched", "trainer.epochs=1", "split.validation=0.5")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinted_store(tmp_path_factory.mktemp("project"), images=80)


@pytest.fixture(scope="module")
def run(root: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield root / train(compose(SETTINGS), lambda _: None)


def test_export_writes_a_small_reference_and_the_same_one_again(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    path = RunFolder(run).reference
    content = path.read_bytes()
    about = json.loads((run / "export.json").read_text())["reference"]
    assert about == {
        "images": json.loads((run / "train.json").read_text())["images"]["validation"],
        "bytes": path.stat().st_size,
    }
    assert len(content) <= LARGEST
    assert export.main(["name=watched"]) == 0 and path.read_bytes() == content


def test_the_worker_measures_as_export_did(run: Path, root: Path) -> None:
    classifier = Classifier(run / "model.pt")
    classifier.observes = True
    data = PreparedDataset.open(root / "data/processed/tinted")
    rows = data.split(SplitSpec.from_config(compose(SETTINGS).split)).validation
    answers = classifier.classify([data.record(int(row)).read(data.raw) for row in rows])
    labels = [answer for answer in answers if isinstance(answer, Labels)]
    known = Reference.read(RunFolder(run).reference)
    assert len(labels) == len(known) == len(rows)
    steps = (known.rows - np.array([answer.embedding for answer in labels])) / known.step
    assert np.abs(steps).max() < 0.51  # rounding
    np.testing.assert_allclose(known.statistics, np.array([answer.statistics for answer in labels]), atol=1e-6)
    best = [next(iter(answer.items())) for answer in labels]
    assert np.allclose(known.confidences, np.array([confidence for _, confidence in best]), atol=1e-5)
    assert [classifier.spec.classes[place] for place in known.answers] == [label for label, _ in best]
    assert known.labels.tolist() == np.asarray(data.labels)[rows].tolist()


def test_a_worker_that_nobody_watches_projects_nothing(run: Path, root: Path) -> None:
    (answer,) = Classifier(run / "model.pt").classify([(root / "raw/red/000.jpg").read_bytes()])
    assert isinstance(answer, Labels) and not answer.embedding


def test_an_archive_carries_the_reference(run: Path, tmp_path: Path) -> None:
    built = archive.build("watched", "1.0", run=run, store=tmp_path, rehearse=False)
    with zipfile.ZipFile(built.path) as file:
        assert file.read(REFERENCE) == RunFolder(run).reference.read_bytes()


def test_directions_are_white_unless_their_variance_is_small() -> None:
    random = np.random.default_rng(0)
    deviations = np.array([10.0, 5.0, 2.0, 1.0])
    drawn = (random.standard_normal((2000, 4)) * deviations + 3).astype(np.float32)
    directions, scale, offset = reference.projection(drawn)
    projected = drawn @ (directions * scale) - offset
    assert np.abs(projected.mean(axis=0)).max() < 0.01
    spread = sorted(projected.std(axis=0).tolist(), reverse=True)
    ridge = reference.RIDGE * (deviations**2).mean()
    assert spread == pytest.approx((deviations / np.sqrt(deviations**2 + ridge)).tolist(), abs=0.05)


@pytest.mark.parametrize("width", [3, 1280, 2048, 4096])
def test_a_file_is_small_for_wide_embeddings_too(width: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    directions, scale, offset = reference.projection(random.standard_normal((80, width)).astype(np.float32))
    count = len(scale)
    drawn = Reference(
        *(directions, scale, offset, np.zeros((500, count), np.int8), np.ones(count, np.float32)),
        *(np.zeros((500, 3), np.float32), np.zeros(500, np.float32), np.zeros(500, np.int32), np.zeros(500, np.int32)),
    )
    drawn.write(tmp_path / REFERENCE)
    assert count == min(64, width, {4096: 36}.get(width, 64))
    assert (tmp_path / REFERENCE).stat().st_size <= LARGEST
    again = Reference.read(tmp_path / REFERENCE)
    ones = torch.ones(2, width)
    torch.testing.assert_close(Projection(again)(ones), Projection(drawn)(ones), atol=1e-3, rtol=0)


def test_few_validation_images_are_no_reference(tmp_path: Path) -> None:
    drawn = np.zeros((99, 4), np.float32)
    embeddings = Embeddings(drawn, np.zeros(99, np.int64), drawn, np.arange(99), np.arange(99))
    about = reference.write(tmp_path / "model.pt", embeddings, None, torch.zeros(99, 3))  # type: ignore[arg-type]
    assert about == {"why": "there are 99 validation images: a reference for drift needs 100"}
    assert reference.write(tmp_path / "model.pt", "no embedding", None, torch.zeros(99, 3)) == {"why": "no embedding"}  # type: ignore[arg-type]
    assert not (tmp_path / REFERENCE).exists()


def test_a_damaged_or_foreign_reference_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("model.pt", "familiarity.bin"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    content = RunFolder(run).reference.read_bytes()
    for damaged in (b"", content[:-4], content.replace(b"shapes", b"shopes"), content.partition(b"\n")[2]):
        (tmp_path / REFERENCE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match="is damaged; export the model again"):
            Classifier(tmp_path / "model.pt")
    known = Reference.parse(content, REFERENCE)
    longer = np.concatenate([known.directions, known.directions[:1]])
    arrays = [getattr(known, name) for name in Reference.__slots__ if not name.startswith("_")]
    Reference(longer, *arrays[1:]).write(tmp_path / REFERENCE)
    with pytest.raises(ArtifactError, match=r"drift\.bin are of two exports"):
        Classifier(tmp_path / "model.pt")
