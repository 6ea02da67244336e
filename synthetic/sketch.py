"""Flat shapes in unit coordinates, drawn at twice the size and reduced, which smooths their edges.

Only a window of the sketch is visible, so that place and size of the same things differ from image to image.
"""

import numpy as np
from PIL import Image, ImageDraw

from synthetic.canvas import Plane, colour

Fill = tuple[int, int, int]
Points = list[tuple[float, float]]


class Sketch:
    """A square picture; x and y run from 0 (left, top) to 1, and `horizon` is the y where the ground begins."""

    def __init__(self, size: int, horizon: float, rng: np.random.Generator) -> None:
        self.size = size
        self.horizon = horizon
        self.rng = rng
        self._side = 2 * size
        self._view = rng.uniform(0.62, 1.0)
        # People look above the horizon more often than at the ground in front of them.
        self._left, self._top = rng.uniform(0, 1 - self._view), (1 - self._view) * rng.beta(1.3, 1.8)
        self._image = Image.new("RGB", (self._side, self._side))
        self._draw = ImageDraw.Draw(self._image)

    def tone(self, hue: float, saturation: float, value: float, play: float = 0.06) -> Fill:
        """Return a colour near hue, saturation and value: `play` is the deviation of the value."""
        rng = self.rng
        rgb = colour(
            hue + rng.normal(0, 0.015),
            float(np.clip(saturation + rng.normal(0, 0.05), 0, 1)),
            float(np.clip(value + rng.normal(0, play), 0, 1)),
        )
        red, green, blue = (int(255 * channel) for channel in rgb)
        return red, green, blue

    def polygon(self, points: Points, fill: Fill) -> None:
        self._draw.polygon([(x * self._side, y * self._side) for x, y in points], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Fill) -> None:
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def disc(self, x: float, y: float, across: float, down: float, fill: Fill) -> None:
        side = self._side
        box = ((x - across) * side, (y - down) * side, (x + across) * side, (y + down) * side)
        self._draw.ellipse(box, fill=fill)

    def line(self, points: Points, width: float, fill: Fill) -> None:
        side = self._side
        self._draw.line([(x * side, y * side) for x, y in points], fill=fill, width=max(1, round(width * side)))

    def shaded(self, fill: Fill, share: float) -> Fill:
        """Return a colour darker (share below 1) or brighter."""
        red, green, blue = (min(255, int(channel * share)) for channel in fill)
        return red, green, blue

    @property
    def seen_horizon(self) -> float:
        """The y of the horizon within the window, 0 to 1 if it is visible."""
        return (self.horizon - self._top) / self._view

    def picture(self) -> Plane:
        """Return the picture in the window as (3, size, size), 0 to 1."""
        x, y, view = (value * self._side for value in (self._left, self._top, self._view))
        shape = (self.size, self.size)
        reduced = self._image.resize(shape, Image.Resampling.HAMMING, (x, y, x + view, y + view))
        result: Plane = np.asarray(reduced, np.float32).transpose(2, 0, 1) / np.float32(255)
        return np.ascontiguousarray(result)
