"""Measurements of a worker's images: statistics of their pixels, and their embeddings in a reference's directions."""

import functools
from collections.abc import Sequence

import torch

from handlers.observation import statistics
from handlers.observation.reference import Reference
from handlers.observation.statistics import Statistics
from handlers.requests.labels import Measured


class Projection:
    """The projection of embeddings on the whitened directions of a reference."""

    def __init__(self, reference: Reference) -> None:
        self._directions = torch.from_numpy(reference.directions * reference.scale)
        self._shift = torch.from_numpy(-reference.offset)

    def __call__(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return embeddings, the last columns of float32 (B, K + D) on the CPU, in d directions: (B, d)."""
        return torch.addmm(self._shift, outputs[:, -len(self._directions) :], self._directions)


class Batch:
    """Answered images, measured only on demand.

    Args:
        images: uint8, each of shape (C, S, S), as `Classifier.decode` returns them.
        outputs: of the network for these images, on the CPU: the last numbers of each row are its embedding.
        projection: None without a reference.
    """

    def __init__(self, images: Sequence[torch.Tensor], outputs: torch.Tensor, projection: Projection | None) -> None:
        self._images, self._outputs, self._projection = images, outputs, projection

    def measure(self, place: int) -> Measured:
        """Return the measurements of one image."""
        return Measured(self._statistics(place), self._projected[place] if self._projection else ())

    def _statistics(self, place: int) -> Statistics:
        image = self._images[place]
        return _of_array(image) if image.device.type == "cpu" else self._all[place]

    @functools.cached_property
    def _all(self) -> list[Statistics]:
        return statistics_of(self._images)

    @functools.cached_property
    def _projected(self) -> list[list[float]]:
        assert self._projection is not None
        with torch.inference_mode():
            rows: list[list[float]] = self._projection(self._outputs).tolist()
        return rows


def statistics_of(images: Sequence[torch.Tensor]) -> list[Statistics]:
    """Return the statistics of images.

    Args:
        images: uint8, each of shape (C, S, S), of at least three rows, as `Classifier.decode` returns them.
    """
    if all(image.device.type == "cpu" for image in images):
        return [_of_array(image) for image in images]
    with torch.inference_mode():
        device = next(image.device for image in images if image.device.type != "cpu")
        return [Statistics(*row) for row in _of_batch(images, device)]


def _of_array(image: torch.Tensor) -> Statistics:
    # By numpy: its small operations take half the time of torch's.
    return statistics.measure(image.permute(1, 2, 0).numpy())


def _of_batch(images: Sequence[torch.Tensor], device: torch.device) -> list[list[float]]:
    """Return the same of images, computed on a GPU by few kernels for all of them."""
    channels, height, width = images[0].shape
    rows = torch.from_numpy(statistics.sampled_rows(height)).to(device)
    sample = torch.stack([image.to(device).permute(1, 2, 0).index_select(0, rows) for image in images])
    values = sample.view(len(images), -1).to(torch.float32)
    mean = values.mean(1, keepdim=True)
    contrast = torch.linalg.vector_norm(values - mean, dim=1) / values.shape[1] ** 0.5
    above, middle, below = values.view(len(images), -1, 3, width * channels).unbind(2)
    inner = slice(channels, -channels)
    laplacian = (4 * middle[..., inner]).sub_(above[..., inner]).sub_(below[..., inner])
    laplacian.sub_(middle[..., : -2 * channels]).sub_(middle[..., 2 * channels :])
    sharpness = torch.linalg.vector_norm(laplacian.flatten(1), 1, dim=1) / laplacian[0].numel()
    rows_of_statistics: list[list[float]] = (torch.stack([mean[:, 0], contrast, sharpness], dim=1) / 255).tolist()
    return rows_of_statistics
