import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.unit.class_folders import write
from training.data.arrays import RowFile
from training.data.index import Decoded, Index
from training.data.prepare import prepare
from training.data.recipe import Recipe
from training.data.records import DatasetError, RawDataset, Record
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset, statistics


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("store")
    raw = write(folder / "raw", 6, 2)
    prepare(Recipe(name="pets", reader="class_folders", raw=raw, image_size=12), folder / "pets")
    return PreparedDataset.open(folder / "pets")


def test_statistics_are_those_of_the_pixels(dataset: PreparedDataset) -> None:
    rows = dataset.split(SplitSpec()).train
    values = dataset.images[rows] / 255
    mean, std = dataset.statistics(rows)
    assert mean == pytest.approx(values.mean((0, 2, 3))) and std == pytest.approx(values.std((0, 2, 3)))
    train = np.flatnonzero(~dataset.on_test_side)
    assert (dataset.document["mean"], dataset.document["std"]) == tuple(map(list, dataset.statistics(train)))


def test_statistics_of_one_colour_do_not_divide_by_zero() -> None:
    moments = np.array([[[40], [400]]] * 3, np.int64)
    mean, std = statistics(moments, np.arange(3), 4)
    assert mean == pytest.approx((10 / 255,)) and std == pytest.approx((1 / 255,))


def test_statistics_of_nothing_are_refused(dataset: PreparedDataset) -> None:
    with pytest.raises(ValueError, match="no images"):
        dataset.statistics(np.empty(0, np.int64))


def test_the_given_split_is_the_layouts(dataset: PreparedDataset) -> None:
    dealt = dataset.split(SplitSpec(validation=0.2))
    assert all(dataset.record(row).split == "test" for row in dealt.test) and len(dealt.test) == 6
    assert all(dataset.record(row).split == "train" for row in (*dealt.train, *dealt.validation))
    assert len(dealt.transformed) == len(dataset.transformed_images) == len(dataset.transformed_labels) == 0


def test_another_process_opens_the_same_folder(dataset: PreparedDataset) -> None:
    assert dataset.images.shape == (24, 3, 12, 12)
    sent = pickle.dumps(dataset)
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert np.array_equal(received.images, dataset.images) and received.record(3) == dataset.record(3)


def test_a_row_that_is_not_there_is_named(dataset: PreparedDataset) -> None:
    with pytest.raises(IndexError, match="row 24"):
        dataset.record(24)


def test_a_folder_that_was_not_prepared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no prepared data set; make it \(make data NAME=none DATASET="):
        PreparedDataset.open(tmp_path / "none")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not a JSON document"):
        PreparedDataset.open(tmp_path)


def records(*rows: tuple[str, str, str | None, str | None]) -> list[Record]:
    return [Record(name, split, label, name, group=group) for name, split, label, group in rows]  # type: ignore[arg-type]


def fill(index: Index, rows: list[Record]) -> None:
    index.create("key")
    list(index.add(RawDataset(("a", "b"), rows)))
    index.finish(Decoded(one.number, bytes([one.number]) * 32, 1, None) for chunk in index.pending(2) for one in chunk)


def test_unlabelled_images_test_but_do_not_train(tmp_path: Path) -> None:
    rows = records(("1", "train", "a", None), ("2", "train", None, None), ("3", "test", None, None))
    with Index(tmp_path / "index", writable=True) as index:
        fill(index, rows)
        assert index.column("class", 2).tolist() == [0, -1]
        assert list(index.left_out()) == [("no label", 1, ["2"])]


def test_two_records_of_one_id_are_refused(tmp_path: Path) -> None:
    with Index(tmp_path / "index", writable=True) as index, pytest.raises(DatasetError, match=r"second record.*'1'"):
        fill(index, records(("1", "train", "a", None), ("1", "train", "b", None)))


def test_groups_and_twins_are_numbered_by_row(tmp_path: Path) -> None:
    rows = records(*((str(number), "test", "a", group) for number, group in enumerate(["x", None, "y", "x"])))
    with Index(tmp_path / "index", writable=True) as index:
        fill(index, rows)
        groups = index.groups(4)
        assert groups[1] == -1 and groups[0] == groups[3] != groups[2]
        index.finish([Decoded(3, bytes([1]) * 32, 1, None)])
        assert index.twins(4).tolist() == [-1, 1, -1, 1]


def test_gaps_are_filled_from_the_end(tmp_path: Path) -> None:
    with Index(tmp_path / "index", writable=True) as index:
        fill(index, records(*((str(number), "train", "a", None) for number in range(8))))
        index.finish(Decoded(number, b"", 1, "broken") for number in (0, 2, 6))
        index.plan_moves()
        assert list(index.moves()) == [(5, 0), (7, 2)]
        index.renumber()
        index.renumber()  # an interrupted run does it again
        assert [index.record(row).id for row in range(5)] == ["5", "1", "7", "3", "4"]


def test_a_row_file_is_a_npy_file_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    rows = np.arange(60, dtype=np.int64).reshape(10, 2, 3)
    with RowFile(path, 10, (2, 3), np.int64) as file:
        file.allocate()
        for number in reversed(range(10)):
            file.write(number, rows[number])
        assert np.array_equal(np.load(path), rows)
        file.move(9, 0)
        file.shorten(9)
        with pytest.raises(ValueError, match="holds int64"):
            file.write(0, np.zeros((2, 3), np.uint8))
    assert np.array_equal(np.load(path, mmap_mode="r"), np.concatenate([rows[9:], rows[1:9]]))
