"""Corruptions are stronger the larger their number, the same again by seed, and stay images."""

import colorsys

import pytest
import torch

from training.report.corruptions import CORRUPTIONS, STRENGTHS


def images(side: int, channels: int) -> torch.Tensor:
    """Return three images with detail of all sizes, as photographs have it, float32 in [0, 1]."""
    frequency = torch.fft.fftfreq(side).square()
    radius = (frequency[:, None] + frequency[None, :]).sqrt().clamp(min=1 / side)
    noise = torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(0))
    waves: torch.Tensor = torch.fft.ifft2(torch.fft.fft2(noise) / radius).real
    deviation = float(waves.std())
    return (0.45 + 0.15 * waves / deviation).clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [64, 224])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_last_strength_changes_images_more_than_the_first(name: str, side: int, channels: int) -> None:
    clean = images(side, channels)
    changes = []
    for strength in range(1, STRENGTHS + 1):
        corrupted = CORRUPTIONS[name](clean, strength, 0)
        assert corrupted.shape == clean.shape and corrupted.dtype == torch.float32
        assert corrupted.min() >= 0 and corrupted.max() <= 1
        changes.append(float((corrupted - clean).abs().mean()))
    assert changes[-1] > 1.1 * changes[0] > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides_the_noise_and_the_images_stay(name: str) -> None:
    clean = images(64, 3)
    before = clean.clone()
    first, again, another = (CORRUPTIONS[name](clean, 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and torch.equal(clean, before)
    is_random = name in ("Gaussian noise", "shot noise", "impulse noise", "motion blur", "fog")
    assert torch.equal(first, another) is not is_random


@pytest.mark.parametrize("name", ["Gaussian noise", "shot noise", "impulse noise", "defocus blur", "motion blur"])
def test_noise_and_blur_keep_the_mean(name: str) -> None:
    grey = torch.full((2, 3, 64, 64), 0.5)
    assert float(CORRUPTIONS[name](grey, 1, 0).mean()) == pytest.approx(0.5, abs=0.01)


def test_a_point_is_spread_over_the_disk_and_the_line() -> None:
    point = torch.zeros(1, 1, 225, 225)
    point[..., 112, 112] = 1
    disk = CORRUPTIONS["defocus blur"](point, 5, 0)
    assert 1 / float(disk.square().sum()) == pytest.approx(3.14 * 10**2, rel=0.06)  # pixels
    line = CORRUPTIONS["motion blur"](point, 5, 0).nonzero()[:, 2:] - 112
    assert line.float().norm(dim=1).max() == pytest.approx(40, abs=2.5)  # twice the radius of ImageMagick's kernel
    assert len(line) < 200


def test_brightness_adds_to_the_value_of_hsv() -> None:
    colours = torch.tensor([[0.2, 0.4, 0.1], [0.9, 0.3, 0.5], [0.0, 0.0, 0.0]])
    brighter = CORRUPTIONS["brightness"](colours.T.reshape(1, 3, 3, 1), 2, 0).reshape(3, 3).T
    for colour, result in zip(colours.tolist(), brighter.tolist(), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        assert result == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2)), abs=1e-5)
