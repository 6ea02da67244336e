"""The filters as matrices, and which images are multiplied together."""

import random
from typing import get_args

import pytest
import torch
from torch.nn import functional

from handlers.images import resampling
from handlers.spec import Interpolation


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize(("side", "scaled"), [(200, 32), (33, 32), (32, 32), (7, 40), (1, 32), (4000, 37), (257, 64)])
def test_a_matrix_is_torch_s_own_filter(
    side: int, scaled: int, interpolation: Interpolation, device: torch.device
) -> None:
    (ours,) = resampling.matrices([side], [scaled], 32, device, torch.float32, interpolation)
    single = torch.eye(side, device=device)[:, None, None]  # one image for each pixel that may contribute
    theirs = functional.interpolate(single, size=(1, scaled), mode=interpolation, align_corners=False, antialias=True)
    first = (scaled - 32) // 2
    torch.testing.assert_close(ours, theirs[:, 0, 0, first : first + 32].T, rtol=0, atol=1e-5)


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_matrices_of_a_batch_are_those_of_its_images(interpolation: Interpolation, device: torch.device) -> None:
    together = resampling.matrices([50, 90, 20], [40, 32, 60], 32, device, torch.float32, interpolation)
    assert together.shape == (3, 32, 90)
    for ours, side, scaled in zip(together, [50, 90, 20], [40, 32, 60], strict=True):
        (alone,) = resampling.matrices([side], [scaled], 32, device, torch.float32, interpolation)
        torch.testing.assert_close(ours[:, :side], alone)
        assert not ours[:, side:].any()


def test_what_stands_beside_an_image_does_not_touch_it(device: torch.device) -> None:
    small = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, device=device)
    large = torch.full((3, 50, 40), 255, dtype=torch.uint8, device=device)
    together = resampling.resize([small, large], [(32, 32), (40, 32)], 32, torch.float32)
    alone = torch.cat(
        [
            resampling.resize([small], [(32, 32)], 32, torch.float32),
            resampling.resize([large], [(40, 32)], 32, torch.float32),
        ]
    )
    assert (together.int() - alone.int()).abs().max() <= 1
    assert (together[1] == 255).all()


def test_images_of_many_sizes_stand_in_few_batches() -> None:
    draw = random.Random(0)
    shapes = [(draw.randint(150, 800), draw.randint(150, 800)) for _ in range(64)]
    found = list(resampling.batches(shapes, 2**30, 32))
    assert sorted(place for part in found for place in part) == list(range(64))
    assert len(found) <= 12
    for part in found:
        height, width = (max(sides) for sides in zip(*(shapes[place] for place in part), strict=True))
        assert len(part) * height * width <= 2 * sum(shapes[place][0] * shapes[place][1] for place in part)


def test_a_batch_has_no_more_pixels_than_there_is_room_for() -> None:
    assert list(resampling.batches([(10, 10)] * 5 + [(100, 100)], 200, 1)) == [[0, 1], [2, 3], [4], [5]]
    assert list(resampling.batches([(1, 90)] * 2, 200, 2)) == [[0], [1]], "their matrices have 182 values each"
    assert list(resampling.batches([], 200, 1)) == []
