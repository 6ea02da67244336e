"""Generated images: hard for a linear view of their pixels, easy for a small network; JPEG bodies of a wanted size."""

import io

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import nn

from synthetic import fingers
from synthetic.photograph import jpeg_body

SIDE = 48


def hands(labels: list[int], side: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalized hands (N, 1, 48, 48) and the places of their labels in `labels`."""
    images: list[npt.NDArray[np.uint8]] = []
    for label in labels:
        for index in range(count):
            with Image.open(io.BytesIO(fingers.image(0, label, side, index, 96))) as image:
                images.append(np.asarray(image.reduce(2)))
    pixels = torch.from_numpy(np.stack(images)).float()[:, None]
    return (pixels - 80) / 50, torch.arange(len(labels)).repeat_interleave(count)


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)
    )


def test_the_mean_image_of_a_class_says_little() -> None:
    images, labels = hands(list(range(12)), 0, 30)
    probes, truth = hands(list(range(12)), 1, 10)
    means = torch.stack([images[labels == label].mean(0).flatten() for label in range(12)])
    nearest = torch.cdist(probes.flatten(1), means).argmin(1)
    assert (nearest == truth).float().mean() < 0.35


def test_a_small_network_learns_count_and_hand() -> None:
    chosen = [fingers.CLASSES.index(name) for name in ("0L", "0R", "2L", "2R", "5L", "5R")]
    images, labels = hands(chosen, 0, 100)
    probes, truth = hands(chosen, 1, 20)
    network = nn.Sequential(block(1, 8), block(8, 16), block(16, 24), nn.Flatten(), nn.Linear(24 * 36, 6))

    def accuracy() -> float:
        network.eval()
        with torch.no_grad():
            return float((network(probes).argmax(1) == truth).float().mean())

    assert accuracy() < 0.4
    epochs = 6
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=18 * epochs)
    for _ in range(epochs):
        network.train()
        for rows in torch.randperm(len(images))[: 18 * 32].chunk(18):
            loss = nn.functional.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    assert accuracy() > 0.8


@pytest.mark.parametrize(("width", "height", "kilobytes"), [(200, 200, 5), (640, 480, 28)])
def test_jpeg_bodies_have_the_wanted_size(width: int, height: int, kilobytes: int) -> None:
    body = jpeg_body(width, height, kilobytes)
    assert abs(len(body) - kilobytes * 1000) <= 100 * kilobytes
    with Image.open(io.BytesIO(body)) as image:
        assert image.size == (width, height)
        assert "progression" not in image.info
    assert jpeg_body(width, height, kilobytes) == body
    assert jpeg_body(width, height, kilobytes, seed=1) != body


def test_a_size_that_no_picture_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no JPEG of 64x64"):
        jpeg_body(64, 64, 500)
