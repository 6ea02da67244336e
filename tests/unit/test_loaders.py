"""Which images the loaders give, and in batches of which size."""

from pathlib import Path

import numpy as np

from tests.unit.tinted_store import tinted_store
from training.data.loaders import calibration_batches, calibration_rows, validation_batches
from training.data.splits import Split
from training.data.store import PreparedDataset
from training.quantization import CALIBRATION_IMAGES

NONE = np.empty(0, np.int64)


def test_validation_comes_in_order_and_in_batches_of_twice_the_size(tmp_path: Path) -> None:
    data = PreparedDataset.open(tinted_store(tmp_path, images=4) / "data/processed/tinted")
    split = Split(train=NONE, validation=np.array([1, 3, 5, 6, 8, 9, 11]), test=NONE)
    batches = list(validation_batches(data, split, 2))
    assert [len(labels) for _, labels in batches] == [4, 3]
    images = np.concatenate([pixels.numpy() for pixels, _ in batches])
    assert np.array_equal(images, data.images[split.validation])
    assert np.concatenate([labels.numpy() for _, labels in batches]).tolist() == data.labels[split.validation].tolist()


def test_calibration_rows_are_spread_over_the_training_rows(tmp_path: Path) -> None:
    rows = calibration_rows(Split(train=np.arange(10 * CALIBRATION_IMAGES + 7), validation=NONE, test=NONE))
    assert rows.tolist() == list(range(0, 10 * CALIBRATION_IMAGES, 10))
    few = Split(train=np.array([0, 2, 7]), validation=NONE, test=NONE)
    assert calibration_rows(few).tolist() == [0, 2, 7]
    data = PreparedDataset.open(tinted_store(tmp_path, images=4) / "data/processed/tinted")
    assert np.array_equal(np.concatenate([*calibration_batches(data, few)]), data.images[few.train])
