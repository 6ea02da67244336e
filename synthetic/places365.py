"""Scenes: the layout of Places365 with its lists.

    categories_places365.txt          name and index of all 365 classes
    places365_train_standard.txt      /b/beach/00000001.jpg 48    under data_256_standard/
    places365_val.txt                 Places365_val_00000001.jpg 48    under val_256/

A class is a composition: its things, its ground and its sky. Light, colours and places vary.
"""

import functools
from pathlib import Path

from synthetic import scene
from synthetic.canvas import pixels, stream
from synthetic.encoding import jpeg
from synthetic.folder import Parameters, Task, build

TAG = 5


@functools.cache
def names() -> tuple[str, ...]:
    """Return the 365 class names in order, such as `/c/church/outdoor`."""
    return tuple(Path(__file__).with_name("places365.txt").read_text(encoding="utf-8").split())


def class_numbers(classes: int) -> list[int]:
    """Return the indices of the `classes` classes that are present: first those whose scenes suit their names."""
    suiting = sorted(names().index(name) for name in scene.LAYOUTS)
    first = [suiting[number * len(suiting) // classes] for number in range(min(classes, len(suiting)))]
    remaining = [number for number in range(len(names())) if number not in suiting]
    return sorted((suiting if classes > len(suiting) else first) + remaining[: max(0, classes - len(suiting))])


def generate(
    raw: Path,
    *,
    seed: int = 0,
    images_per_class: int = 72,
    classes: int = 12,
    size: int = 256,
    workers: int | None = None,
) -> bool:
    """Write scenes to `raw`: `images_per_class` to train and a seventh as many for val; False if it has them."""
    present = class_numbers(classes)
    few = max(1, round(images_per_class / 7))
    train = [
        (f"{names()[label]}/{index + 1:08d}.jpg", (seed, label, 0, index, size))
        for label in present
        for index in range(images_per_class)
    ]
    mixed = [(label, index) for label in present for index in range(few)]
    order = stream(seed, TAG, 1_000).permutation(len(mixed))
    val = [
        (f"Places365_val_{place + 1:08d}.jpg", (seed, mixed[number][0], 1, mixed[number][1], size))
        for place, number in enumerate(order)
    ]
    categories = "".join(f"{name} {number}\n" for number, name in enumerate(names()))
    lists = {
        "categories_places365.txt": categories,
        "places365_train_standard.txt": "".join(f"{path} {arguments[1]}\n" for path, arguments in train),
        "places365_val.txt": "".join(f"{path} {arguments[1]}\n" for path, arguments in val),
    }
    tasks = [Task(path, str.encode, (text,), 0) for path, text in lists.items()]
    tasks += [Task(f"data_256_standard{path}", image, arguments) for path, arguments in train]
    tasks += [Task(f"val_256/{path}", image, arguments) for path, arguments in val]
    return build(raw, Parameters("places365", seed, images_per_class, classes, size), tasks, workers)


def image(seed: int, label: int, side: int, index: int, size: int) -> bytes:
    """Return one JPEG: `label` of 365, `side` 0 for training and 1 for val."""
    rng = stream(seed, TAG, label, side, index)
    return jpeg(pixels(scene.draw(scene.layout(label, names()[label]), size, rng), rng, 0.015))
