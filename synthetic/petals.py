"""Flowers: the layout of "Petals to the Metal", with the extra files of its present sample.

    tfrecords-jpeg-224x224/{train,val,test}/NN-224x224-<count>.tfrec    keys image, class, id; no class in test
    classes.txt            index, tab, name of all 104 classes (two end in a blank)
    test_labels.csv        id,class,source for the test file

A class has its number, shape and layers of petals, its markings and its centre. Hues are drawn from ranges that many
classes share, so colour does not identify a class.
"""

import functools
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from synthetic import flower
from synthetic.canvas import Plane, opacity, pixels, stream
from synthetic.encoding import jpeg
from synthetic.folder import Parameters, Task, build
from training.data import tfrecord
from training.data.records import DatasetError

TAG = 3
SIDES = ("train", "val", "test")
SHARD = 150  # images in one file
Item = tuple[int, int, int]  # class, side, index


@functools.cache
def names() -> tuple[str, ...]:
    """Return the 104 class names in order, blanks at their ends included."""
    return tuple(json.loads(resources.files("training.data.readers").joinpath("petals_classes.json").read_text()))


def class_numbers(classes: int) -> list[int]:
    """Return the indices of the `classes` classes that are present, spread over all 104, in order."""
    if not 1 <= classes <= len(names()):
        raise DatasetError(f"There are no {classes} classes of petals. Choose 1 to {len(names())}.")
    return [number * len(names()) // classes for number in range(classes)]


def generate(
    raw: Path,
    *,
    seed: int = 0,
    images_per_class: int = 60,
    classes: int = 10,
    size: int = 224,
    workers: int | None = None,
) -> bool:
    """Write flowers to `raw`: `images_per_class` to train, a sixth for val and test each; False if it has them."""
    present = class_numbers(classes)
    few = max(1, round(images_per_class / 6))
    tasks = [
        Task("classes.txt", _classes, (), 0),
        Task("test_labels.csv", _answers, (seed, tuple(_items(seed, present, 2, few))), 0),
    ]
    for side, count in enumerate((images_per_class, few, few)):
        items = list(_items(seed, present, side, count))
        # Even shards, so that the workers end at the same time.
        shards = -(-len(items) // SHARD)
        for shard in range(shards):
            part = tuple(items[shard::shards])
            path = f"tfrecords-jpeg-{size}x{size}/{SIDES[side]}/{shard:02d}-{size}x{size}-{len(part)}.tfrec"
            tasks.append(Task(path, _shard, (seed, part, size), len(part)))
    return build(raw, Parameters("petals", seed, images_per_class, classes, size), tasks, workers)


def image(seed: int, label: int, side: int, index: int, size: int) -> bytes:
    """Return one JPEG: `label` of 104, `side` counts in `SIDES`."""
    rng = stream(seed, TAG, label, side, index)
    return jpeg(pixels(flower.draw(flower.kind(label), size, rng), rng, 0.012))


def cover(seed: int, label: int, side: int, index: int, size: int) -> Plane:
    """Return where the flowers of an image are: their opacity (size, size)."""
    black, white = (
        flower.draw(flower.kind(label), size, stream(seed, TAG, label, side, index), ground) for ground in (0.0, 1.0)
    )
    return opacity(black, white)


def identity(seed: int, item: Item) -> str:
    """Return an image's id: nine hexadecimal digits."""
    return stream(seed, TAG, *item, 1).bytes(5).hex()[:9]


def _items(seed: int, present: list[int], side: int, count: int) -> Iterator[Item]:
    """Yield the items of one side in a seeded order, classes mixed."""
    items = [(label, side, index) for label in present for index in range(count)]
    for number in stream(seed, TAG, 2_000 + side).permutation(len(items)):
        yield items[number]


def _classes() -> bytes:
    return "".join(f"{number}\t{name}\n" for number, name in enumerate(names())).encode()


def _answers(seed: int, items: tuple[Item, ...]) -> bytes:
    rows = [
        f"{identity(seed, item)},{item[0]},test/{names()[item[0]].strip()}/image_{item[2] + 1:04d}.jpg"
        for item in items
    ]
    return ("\n".join(["id,class,source", *sorted(rows)]) + "\n").encode()


def _shard(seed: int, items: tuple[Item, ...], size: int) -> bytes:
    return b"".join(tfrecord.frame(_example(seed, item, size)) for item in items)


def _example(seed: int, item: Item, size: int) -> bytes:
    """Return a serialized tf.train.Example, its keys in alphabetical order; a test item has no class."""
    label, side, index = item
    label_key: dict[str, bytes | int] = {} if SIDES[side] == "test" else {"class": label}
    return tfrecord.example(
        {**label_key, "id": identity(seed, item).encode(), "image": image(seed, label, side, index, size)}
    )
