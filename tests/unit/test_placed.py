"""Generated images whose object's place is known."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from synthetic import placed
from synthetic.canvas import stream

SIZE = 96


@pytest.mark.parametrize("dataset", sorted(placed.GROUNDS))
def test_the_cover_of_an_image_is_where_it_differs_from_its_background(dataset: str) -> None:
    for index in range(4):
        picture, cover = placed.image(dataset, 0, 5, 1, index, SIZE)
        ground = placed.GROUNDS[dataset][1](SIZE, stream(0, placed.TAG, 5, 1, index))
        difference = np.abs(picture / 255 - (ground.transpose(1, 2, 0) if ground.ndim == 3 else ground))
        difference = difference.max(axis=2) if difference.ndim == 3 else difference
        assert picture.shape[:2] == cover.shape == (SIZE, SIZE)
        assert difference[cover == 0].max() < 0.1 < np.median(difference[cover > 0.9])
        assert 0.01 < (cover > 0.2).mean() < 0.4


@pytest.mark.parametrize("dataset", sorted(placed.GROUNDS))
def test_the_cover_of_a_usual_image_is_smooth_and_has_the_object_in_it(dataset: str) -> None:
    module, _ = placed.GROUNDS[dataset]
    cover = module.cover(0, 7, 0, 3, SIZE)
    with Image.open(io.BytesIO(module.image(0, 7, 0, 3, SIZE))) as image:
        values: npt.NDArray[np.int64] = np.asarray(image.convert("L")).astype(int)
    assert cover.min() >= 0 and cover.max() <= 1.001 and 0.03 < (cover > 0.2).mean() < 0.8
    edge = np.abs(np.diff(values, axis=1))
    inside = (cover > 0.2)[:, 1:]
    assert edge[inside].mean() > 1.2 * edge[~inside].mean()  # an object has more edges than its background


def test_objects_are_small_and_anywhere() -> None:
    centres = []
    for index in range(24):
        _, cover = placed.image("moths", 0, 3, 0, index, SIZE)
        centres.append([axis.mean() / SIZE for axis in (cover > 0.2).nonzero()])
    low, high = np.quantile(centres, [0.1, 0.9], axis=0)
    assert (high - low > 0.25).all()
