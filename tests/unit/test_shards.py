import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.unit.class_folders import write
from training.data import shards, splits
from training.data.prepare import prepare
from training.data.recipe import Recipe
from training.data.records import DatasetError
from training.data.shards import EncodedBatches
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.ranks import Ranks

SPEC = SplitSpec(validation=0.2)


def make(folder: Path, raw: Path, kind: str) -> PreparedDataset:
    prepare(Recipe(name=kind, reader="class_folders", raw=raw, image_size=8, store=kind), folder / kind)  # type: ignore[arg-type]
    return PreparedDataset.open(folder / kind)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedDataset, PreparedDataset]:
    """Return the same images kept decoded and encoded, in shards of 5 images."""
    folder = tmp_path_factory.mktemp("100%")  # a pattern with % is what webdataset names its files by
    raw = write(folder / "raw", 12, 2)
    (raw / "train" / "cat" / "0003.jpg").write_bytes(b"no image")
    decoded, encoded = make(folder, raw, "decoded"), make(folder, raw, "encoded")
    shards.ensure(encoded.folder, SPEC, seed=3, console=Console(file=io.StringIO()), images_per_shard=5)
    return decoded, encoded


def collect(batches: EncodedBatches) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    made = list(batches)
    assert len(made) == len(batches)
    images, labels = (torch.cat(parts) for parts in zip(*made, strict=True))
    return images, labels, [len(labels) for _, labels in made]


def rows_of(dataset: PreparedDataset, images: torch.Tensor) -> list[int]:
    """Find the row of each image by its pixels."""
    by_pixels = {image.tobytes(): row for row, image in enumerate(dataset.images)}
    return [by_pixels[image.numpy().tobytes()] for image in images]


def test_all_rows_come_once_with_their_pixels_and_labels(pair: tuple[PreparedDataset, PreparedDataset]) -> None:
    decoded, encoded = pair
    split = encoded.split(SPEC)
    for rows in (split.train, split.validation, split.test, split.train[::3]):
        images, labels, sizes = collect(EncodedBatches(encoded, rows, 4, workers=2))
        found = rows_of(decoded, images)
        assert sorted(found) == rows.tolist()
        assert labels.tolist() == decoded.labels[found].tolist()
        assert sizes == [4] * (len(rows) // 4) + [len(rows) % 4] * bool(len(rows) % 4)
        assert images.dtype == torch.uint8 and labels.dtype == torch.int64


def test_the_order_depends_on_seed_and_epoch(pair: tuple[PreparedDataset, PreparedDataset]) -> None:
    decoded, encoded = pair
    rows = encoded.split(SPEC).train

    def order(seed: int, epoch: int) -> list[int]:
        images, _, sizes = collect(EncodedBatches(encoded, rows, 8, seed=seed, epoch=lambda: epoch, workers=2))
        assert set(sizes) == {8}  # the last batch is not full and is left out
        return rows_of(decoded, images)

    first = order(1, 0)
    assert len(set(first)) == len(first) == len(rows) // 8 * 8
    assert order(1, 0) == first
    assert first not in (order(1, 1), order(2, 0), sorted(first))


def test_several_processes_read_each_row_once(pair: tuple[PreparedDataset, PreparedDataset]) -> None:
    decoded, encoded = pair
    rows, batch_size, rows_read = encoded.split(SPEC).train, 4, []
    for ranks in (Ranks(0, 3), Ranks(1, 3), Ranks(2, 3)):
        share, size = ranks.share_of_all(rows, batch_size), ranks.share_size(batch_size)
        images, _, sizes = collect(EncodedBatches(encoded, share, size, seed=1, limit=len(rows) // batch_size))
        assert sizes == [size] * (len(rows) // batch_size)
        rows_read += rows_of(decoded, images)
    assert len(set(rows_read)) == len(rows_read) == len(rows) // batch_size * batch_size
    assert set(rows_read) <= set(rows.tolist())


def test_fewer_rows_than_a_batch_still_come(pair: tuple[PreparedDataset, PreparedDataset]) -> None:
    _, encoded = pair
    assert collect(EncodedBatches(encoded, encoded.split(SPEC).train[:3], 8, seed=0, workers=1))[2] == [3]


def test_shards_are_shuffled_reproducible_and_written_once(
    pair: tuple[PreparedDataset, PreparedDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, encoded = pair
    folder, silent = encoded.folder / "shards", Console(file=io.StringIO())

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.glob("*.tar")}

    before, time = files(), (folder / "shards.json").stat().st_mtime_ns
    assert {name.rsplit("-", 1)[0] for name in before} == {"train", "validation", "test"}
    places = np.load(folder / "places.npy")
    assert len(np.unique(places[encoded.split(SPEC).train])) == 6
    shards.ensure(encoded.folder, SPEC, seed=3, console=silent, images_per_shard=5)
    assert (folder / "shards.json").stat().st_mtime_ns == time
    shards.ensure(encoded.folder, SPEC, seed=4, console=silent, images_per_shard=5)
    assert files().keys() == before.keys() and files() != before
    shards.ensure(encoded.folder, SPEC, seed=3, console=silent, images_per_shard=5)
    assert files() == before
    time = (folder / "shards.json").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(splits, "FORMAT", 99)
        shards.ensure(encoded.folder, SPEC, seed=3, console=silent, images_per_shard=5)
    assert (folder / "shards.json").stat().st_mtime_ns > time


def test_whole_shards_of_a_killed_process_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = write(tmp_path / "raw", 12, 2)
    encoded, silent = make(tmp_path, raw, "encoded"), Console(file=io.StringIO())
    folder = encoded.folder / "shards"
    shards.ensure(encoded.folder, SPEC, seed=3, console=silent, images_per_shard=5)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    written: list[str] = []
    write_shard = shards._write

    def dies(path: Path, *rest: Any) -> None:
        if len(written) == 2:
            half = path.parent / f".{path.name}-{2**30}-half"  # as a process that is killed leaves it
            half.mkdir()
            (half / path.name).write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        write_shard(path, *rest)

    monkeypatch.setattr(shards, "_write", dies)
    shutil.rmtree(folder)
    with pytest.raises(KeyboardInterrupt):
        shards.ensure(encoded.folder, SPEC, seed=3, console=silent, images_per_shard=5)
    assert not folder.exists() and len(written) == 2

    def goes_on(path: Path, *rest: Any) -> None:
        written.append(path.name)
        write_shard(path, *rest)

    monkeypatch.setattr(shards, "_write", goes_on)
    shards.ensure(encoded.folder, SPEC, seed=4, console=silent, images_per_shard=5)
    other = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    assert not any(whole[name] == data for name, data in other.items())  # those of another order are not kept
    monkeypatch.setattr(shards, "_write", dies)
    written.clear()
    with pytest.raises(KeyboardInterrupt):
        shards.ensure(encoded.folder, SPEC, seed=3, console=silent, images_per_shard=5)
    monkeypatch.setattr(shards, "_write", goes_on)
    shards.ensure(encoded.folder, SPEC, seed=3, console=silent, images_per_shard=5)
    assert len(written) == len(set(written)) == len(json.loads(whole["shards.json"])["shards"])
    left = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: left[name] for name in whole} == whole


def test_the_index_is_the_same_as_that_of_decoded_images(pair: tuple[PreparedDataset, PreparedDataset]) -> None:
    decoded, encoded = pair
    assert decoded.fingerprint == encoded.fingerprint
    assert decoded.document["left_out"] == encoded.document["left_out"] == {"does not decode": 1}
    rows = decoded.split(SPEC).train
    assert decoded.statistics(rows) == encoded.statistics(rows)
    with pytest.raises(DatasetError, match="kept encoded"):
        _ = encoded.images


def test_each_image_is_found_in_its_shard(pair: tuple[PreparedDataset, PreparedDataset]) -> None:
    _, encoded = pair
    split = encoded.split(SPEC)
    for row in (*split.train, *split.validation):
        assert shards.encoded(encoded, row) == encoded.record(row).read(encoded.raw)


def test_a_shard_that_is_cut_short_is_named(tmp_path: Path) -> None:
    encoded = make(tmp_path, write(tmp_path / "raw", 4), "encoded")
    shards.ensure(encoded.folder, SPEC, seed=0, console=Console(file=io.StringIO()))
    for path in (encoded.folder / "shards").glob("*.tar"):
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DatasetError, match="is in no shard"):
        shards.encoded(encoded, int(encoded.split(SPEC).train[-1]))


def test_auto_decodes_while_it_fits(tmp_path: Path) -> None:
    raw = write(tmp_path / "raw", 1)
    for gigabytes, encoded in ((600e-9, False), (500e-9, True)):  # 3 images of 3 x 8 x 8 bytes are 576
        plain = Recipe(name="x", reader="class_folders", raw=raw, image_size=8, max_decoded_gb=gigabytes)
        prepare(plain, tmp_path / "x")
        assert PreparedDataset.open(tmp_path / "x").encoded is encoded
        assert (tmp_path / "x" / "images.npy").exists() is not encoded


def test_rows_without_a_shard_are_refused(tmp_path: Path) -> None:
    encoded = make(tmp_path, write(tmp_path / "raw", 4), "encoded")
    with pytest.raises(DatasetError, match="no shards"):
        EncodedBatches(encoded, np.arange(2), 2)
    shards.ensure(encoded.folder, SPEC, seed=0, console=Console(file=io.StringIO()))
    places = np.load(encoded.folder / "shards" / "places.npy")
    places[1] = -1
    np.save(encoded.folder / "shards" / "places.npy", places)
    with pytest.raises(DatasetError, match="1 of the images are in no shard"):
        EncodedBatches(encoded, np.arange(2), 2)
